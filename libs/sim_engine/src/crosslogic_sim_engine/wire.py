"""HTTP/1.1, as much as an engine behind an agent needs, at a few microseconds a request.

A web framework costs more per request than all that the simulated engine does; in load tests on two cores that would be
measured as part of the suite.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
BLOCKED_BYTES = 64 * 1024
"""A reader this far behind gets several tokens a chunk, as from vLLM."""

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_JSON_HEAD = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_END = b"\r\n\r\n"


class BadHttpError(Exception):
    """What came is no HTTP request; the connection is closed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Request:
    """A whole request."""

    __slots__ = ("body", "connection", "headers", "keep_alive", "method", "path")

    def __init__(self, connection: "Connection", head: bytes) -> None:
        self.connection = connection
        self.body = b""
        line, _, rest = head.decode("latin-1").partition("\r\n")
        try:
            self.method, target, version = line.split(" ")
        except ValueError:
            raise BadHttpError(400) from None
        self.path = target.partition("?")[0]
        self.headers: dict[str, str] = {}
        for field in rest.split("\r\n"):
            name, colon, value = field.partition(":")
            if colon:
                self.headers[name.lower()] = value.strip()
        self.keep_alive = version == "HTTP/1.1" and self.headers.get("connection", "").lower() != "close"

    def reply(self, body: bytes, *, status: int = 200, content_type: str = "application/json", extra: str = "") -> None:
        """Answers it whole. `extra` are more header lines, each ending in CRLF."""
        if status == HTTPStatus.OK and content_type == "application/json" and not extra:
            self.connection.write(_JSON_HEAD % (len(body), body))
        else:
            head = (
                f"HTTP/1.1 {status} {_phrase(status)}\r\nserver: uvicorn\r\ncontent-length: {len(body)}\r\n"
                f"content-type: {content_type}\r\n{extra}\r\n"
            )
            self.connection.write(head.encode("latin-1") + body)
        self.connection.answered(self)

    def break_off(self, sent: bytes) -> None:
        """Sends this much of an answer and closes."""
        self.connection.write(sent)
        self.connection.close()


class Connection(asyncio.Protocol):
    """One client: one request after the other."""

    __slots__ = ("_buffer", "_busy", "_handle", "_open", "_transport", "on_lost")

    def __init__(self, handle: Callable[[Request], None], open_connections: set["Connection"]) -> None:
        self._handle = handle
        self._open = open_connections
        self._buffer = b""
        self._busy = False
        self._transport: asyncio.Transport | None = None
        self.on_lost: Callable[[], None] | None = None
        """Called when the client leaves before the answer to its request is complete."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        self._transport = cast("asyncio.Transport", transport)
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's."""
        del exc
        self._open.discard(self)
        self._transport = None
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        self._buffer = self._buffer + data if self._buffer else data
        if not self._busy:
            self._next()
        elif len(self._buffer) > MAX_BODY_BYTES:
            self.close()

    def answered(self, request: Request) -> None:
        """The answer to a request is written: on to the next."""
        self._busy = False
        self.on_lost = None
        if not request.keep_alive:
            self.close()
        elif self._buffer:
            asyncio.get_running_loop().call_soon(self._next)

    def write(self, data: bytes) -> None:
        """Sends bytes; nothing when the client has gone."""
        if self._transport is not None:
            self._transport.write(data)

    def waiting_bytes(self) -> int:
        """What the client has not taken yet and the system does not hold for it."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def closing(self) -> bool:
        """Nothing that is written now arrives."""
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Closes when all is sent."""
        if self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        if self._busy or not self._buffer:
            return
        try:
            request = self._take()
        except BadHttpError as error:
            head = f"HTTP/1.1 {error.status} {_phrase(error.status)}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.write(head.encode())
            self.close()
            return
        if request is not None:
            self._busy = True
            self._handle(request)

    def _take(self) -> Request | None:
        """The next whole request of the buffer; None when it is not all there."""
        end = self._buffer.find(_END)
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise BadHttpError(431)
            return None
        request = Request(self, self._buffer[:end])
        begin = end + 4
        if "transfer-encoding" in request.headers:
            return self._take_chunked(request, begin)
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            raise BadHttpError(413 if length.isdecimal() else 400)
        stop = begin + int(length)
        if len(self._buffer) < stop:
            if request.headers.get("expect") == "100-continue" and len(self._buffer) == begin:
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        request.body = self._buffer[begin:stop]
        self._buffer = self._buffer[stop:]
        return request

    def _take_chunked(self, request: Request, begin: int) -> Request | None:
        parts = []
        while True:
            line_end = self._buffer.find(b"\r\n", begin)
            if line_end < 0:
                return None
            try:
                size = int(self._buffer[begin:line_end].partition(b";")[0], 16)
            except ValueError:
                raise BadHttpError(400) from None
            begin = line_end + 2 + size + 2
            if len(self._buffer) < begin:
                return None
            if size == 0:
                break
            parts.append(self._buffer[line_end + 2 : begin - 2])
        request.body = b"".join(parts)
        self._buffer = self._buffer[begin:]
        return request


class StreamSink:
    """A streamed answer, in HTTP chunks."""

    __slots__ = ("_connection", "_head_written", "_request")

    def __init__(self, request: Request) -> None:
        self._connection = request.connection
        self._request = request
        self._head_written = False

    def write(self, data: bytes) -> None:
        """Sends one HTTP chunk; before the first, the head."""
        if not data:
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head_written:
            self._connection.write(framed)
        else:
            self._head_written = True
            self._connection.write(_STREAM_HEAD + framed)

    def blocked(self) -> bool:
        """The reader is far behind."""
        return self._connection.waiting_bytes() > BLOCKED_BYTES

    def gone(self) -> bool:
        """The reader has closed; its handler hears of it a moment later."""
        return self._connection.closing()

    def end(self) -> None:
        """Writes the last chunk."""
        self._connection.write(b"0\r\n\r\n" if self._head_written else _STREAM_HEAD + b"0\r\n\r\n")
        self._connection.answered(self._request)

    def cut(self, partial: bytes) -> None:
        """Sends a chunk's head and half of it, then closes."""
        half = b"%x\r\n%b" % (len(partial), partial[: len(partial) // 2]) if partial else b""
        self._connection.write(half if self._head_written else _STREAM_HEAD + half)
        self._connection.close()

    def garbage(self) -> None:
        """Sends what no HTTP client can read as a chunk, then closes."""
        self._connection.write(b"zz\r\n\xff\xfe\x00garbage\xc3\x28\r\n")
        self._connection.close()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
