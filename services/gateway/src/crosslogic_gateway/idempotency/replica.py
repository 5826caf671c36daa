"""A request without a client: the same request, whose answer goes into a recording.

What answers requests writes to aiohttp's request and its transport. Here both are stand-ins. The replica speaks
HTTP/1.0, so that a streamed body arrives as it is, in no chunks; each client gets it framed for its own connection.
"""

import asyncio

from aiohttp import HttpVersion10, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict

from crosslogic_gateway.http import REQUEST_ID
from crosslogic_gateway.idempotency.domain import Head
from crosslogic_gateway.idempotency.ports import Run
from crosslogic_gateway.idempotency.recording import Recording

_WRITER_HOLDS_BYTES = 64 * 1024
_UNLIMITED = 2**30


class _Transport(asyncio.Transport):
    """A connection that takes everything."""

    def __init__(self, recording: Recording, peername: object) -> None:
        super().__init__({"peername": peername})
        self._recording = recording

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._recording.write(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self._recording.unread

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """There is nobody to hang up on."""

    def abort(self) -> None:
        """There is nobody to hang up on."""


class _Protocol(BaseProtocol):
    """What a request reads of its connection."""

    ssl_context = None
    sockname = None

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        super().__init__(loop)
        self.transport = transport
        self.peername = transport.get_extra_info("peername")


class _Writer(AbstractStreamWriter):
    """Takes an answer's head and, where its handler writes by aiohttp, its body."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        status = int(status_line.split(" ", 2)[1])
        # Names may be multidict's own kind of str, which JSON does not know.
        self._recording.begin(Head(status, tuple((str(name), value) for name, value in headers.items())))

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self._recording.write(bytes(chunk))
        self.output_size += len(chunk)
        await self.drain()

    async def write_eof(self, chunk: bytes = b"") -> None:
        await self.write(chunk)

    async def drain(self) -> None:
        await self._recording.room(_WRITER_HOLDS_BYTES)

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """Each client's connection decides for itself."""

    def enable_chunking(self) -> None:
        """HTTP/1.0 has no chunks."""


def replica_of(request: web.Request, body: bytes, *, request_id: str, recording: Recording) -> web.Request:
    """The same request under `request_id`, answered into `recording`."""
    loop = asyncio.get_running_loop()
    protocol = _Protocol(loop, _Transport(recording, request.get_extra_info("peername")))
    payload = StreamReader(protocol, _UNLIMITED, loop=loop)
    payload.feed_data(body)
    payload.feed_eof()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # called from a coroutine
    replica = web.Request(
        RawRequestMessage(
            request.method,
            request.path_qs,
            HttpVersion10,
            request.headers,
            request.raw_headers,
            False,  # not to be closed: then only `force_close` says that it was broken off
            None,
            False,
            False,
            request.rel_url,
        ),
        payload,
        protocol,  # type: ignore[arg-type]  # as much of RequestHandler as a request reads
        _Writer(recording),
        task,
        loop,
        client_max_size=request.client_max_size,
        state={key: request[key] for key in request},
    )
    replica._match_info = request.match_info  # noqa: SLF001  # aiohttp's own clone() sets it in the same way
    replica[REQUEST_ID] = request_id
    return replica


async def run_into(recording: Recording, replica: web.Request, run: Run) -> None:
    """Carries out the request and records its answer. What the handler raises becomes the recording's error."""
    response = await run(replica)
    await response.prepare(replica)
    await response.write_eof()
    # Whatever breaks an answer off closes the connection: an answer that ends well leaves it open.
    well = response.status < 300 and response.keep_alive is not False  # HTTP's own boundary  # noqa: PLR2004
    recording.end(complete=well)
