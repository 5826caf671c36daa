"""Answers written straight to the connection: aiohttp reads the requests, and this writes, which costs far less."""

import asyncio
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

BLOCKED_BYTES = 64 * 1024
"""A reader this far behind gets several tokens a chunk, as from vLLM."""

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Written(web.StreamResponse):
    """Tells aiohttp that the answer is on the wire already."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Keeps the connection where the client wants it kept."""
        self._keep_alive = request.keep_alive
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: the end was written."""
        del data


def transport_of(request: web.BaseRequest) -> asyncio.WriteTransport:
    """The connection of a request; ConnectionResetError when the client has gone."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError
    return transport


def answer(
    request: web.BaseRequest,
    body: bytes,
    *,
    status: int = 200,
    content_type: str = "application/json",
    extra: str = "",
) -> Written:
    """Writes a whole answer. `extra` are more header lines, each ending in CRLF."""
    phrase = "OK" if status == HTTPStatus.OK else _phrase(status)
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nserver: uvicorn\r\ncontent-length: {len(body)}\r\n"
        f"content-type: {content_type}\r\n{extra}\r\n"
    )
    transport_of(request).write(head.encode("latin-1") + body)
    return Written()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


class StreamSink:
    """A streamed answer, in HTTP chunks."""

    __slots__ = ("_head_written", "_transport")

    def __init__(self, request: web.BaseRequest) -> None:
        self._transport = transport_of(request)
        self._head_written = False

    def write(self, data: bytes) -> None:
        """Sends one HTTP chunk; before the first, the head."""
        if not data:
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head_written:
            self._transport.write(framed)
        else:
            self._head_written = True
            self._transport.write(_STREAM_HEAD + framed)

    def blocked(self) -> bool:
        """The reader is far behind."""
        return self._transport.get_write_buffer_size() > BLOCKED_BYTES

    def gone(self) -> bool:
        """The reader has closed; its handler hears of it a moment later."""
        return self._transport.is_closing()

    def end(self) -> None:
        """Writes the last chunk."""
        self._transport.write(b"0\r\n\r\n" if self._head_written else _STREAM_HEAD + b"0\r\n\r\n")

    def cut(self, partial: bytes) -> None:
        """Sends a chunk's head and half of it, then closes."""
        half = b"%x\r\n%b" % (len(partial), partial[: len(partial) // 2]) if partial else b""
        self._transport.write(half if self._head_written else _STREAM_HEAD + half)
        self._head_written = True
        self._transport.close()

    def garbage(self) -> None:
        """Sends what no HTTP client can read as a chunk, then closes."""
        self._transport.write(b"zz\r\n\xff\xfe\x00garbage\xc3\x28\r\n")
        self._transport.close()
