"""HTTP/1.1 answers, parsed as they arrive. Pure.

The agent speaks to one known engine, mostly on the same machine. A parser of its own, called straight from the socket,
costs a fifth of a general client's task switches and stream objects for each token (README, "Cost").
"""

from typing import Protocol

MAX_HEAD_BYTES = 64 * 1024
MAX_CHUNK_LINE_BYTES = 1024
_LINE_END = 2
"""Bytes of the line end that closes a chunk."""


class HttpError(Exception):
    """The peer sent what is no HTTP/1.1 answer."""


class AnswerSink(Protocol):
    """Who is told of an answer's parts, in order."""

    def on_head(self, status: int, content_type: str) -> None:
        """The status line and the headers are complete."""

    def on_body(self, data: bytes) -> None:
        """Bytes of the body, never empty."""

    def on_complete(self) -> None:
        """The body is complete."""


class AnswerParser:
    """Parses one answer. Feed it until `complete`."""

    __slots__ = (
        "_buffer",
        "_ended",
        "_in_body",
        "_remaining",
        "_sink",
        "_trailers",
        "chunked",
        "complete",
        "keep_alive",
        "retry_after",
    )

    def __init__(self, sink: AnswerSink) -> None:
        self._sink = sink
        self._buffer = b""
        self._in_body = False
        self._remaining = 0
        """Bytes still due of the body, or of the present chunk with its line end; -1: until the peer closes."""
        self._trailers = False
        self._ended = False
        self.chunked = False
        self.complete = False
        self.keep_alive = True
        self.retry_after = b""
        """What the head says under this name."""

    def feed(self, data: bytes) -> None:
        """Takes what arrived. Raises HttpError; the connection is of no further use then."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if not self._in_body:
            data = self._feed_head(data)
            if not self._in_body:
                return
        if self.chunked:
            self._feed_chunks(data)
        else:
            self._feed_plain(data)

    def feed_eof(self) -> None:
        """The peer closed. Raises HttpError unless that ends the answer."""
        if self.complete:
            return
        if self._in_body and not self.chunked and self._remaining == -1:
            self._finish()
            return
        raise HttpError("the answer was cut")

    def _feed_head(self, data: bytes) -> bytes:
        while True:
            end = data.find(b"\r\n\r\n")
            if end == -1:
                if len(data) > MAX_HEAD_BYTES:
                    raise HttpError("the head is too long")
                self._buffer = data
                return b""
            status, content_type = self._parse_head(data[:end])
            data = data[end + 4 :]
            if status >= 200:  # noqa: PLR2004  # below are interim answers
                break
        self._in_body = True
        self._sink.on_head(status, content_type)
        if status in (204, 304) or (not self.chunked and self._remaining == 0):
            self._finish()
        return data

    def _parse_head(self, head: bytes) -> tuple[int, str]:
        lines = head.split(b"\r\n")
        version, _, rest = lines[0].partition(b" ")
        code = rest[:3]
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(code) != 3 or not code.isdigit():  # noqa: PLR2004
            raise HttpError("no HTTP/1.1 status line")
        self.keep_alive = version == b"HTTP/1.1"
        self._remaining = -1
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        self._frame(fields)
        self.retry_after = fields.get(b"retry-after", b"")
        return int(code), fields.get(b"content-type", b"").decode("latin-1")

    def _frame(self, fields: dict[bytes, bytes]) -> None:
        """How the body's end will be known."""
        if fields.get(b"connection", b"").lower() == b"close":
            self.keep_alive = False
        encoding = fields.get(b"transfer-encoding")
        length = fields.get(b"content-length")
        if encoding is not None:
            if encoding.lower() != b"chunked":
                raise HttpError("an unknown transfer encoding")
            self.chunked = True
            self._remaining = 0
        elif length is not None:
            if not length.isdigit():
                raise HttpError("a content length that is no number")
            self._remaining = int(length)
        else:
            self.keep_alive = False

    def _feed_plain(self, data: bytes) -> None:
        if not data or self.complete:
            return
        if self._remaining == -1:
            self._sink.on_body(data)
            return
        if len(data) > self._remaining:
            raise HttpError("more than the stated length")
        self._remaining -= len(data)
        self._sink.on_body(data)
        if self._remaining == 0:
            self._finish()

    def _feed_chunks(self, data: bytes) -> None:
        """Hands on the chunks of one arrival together: the sink looks for events, not for chunks."""
        at = 0
        size = len(data)
        parts: list[bytes] = []
        while at < size and not self._ended:
            remaining = self._remaining
            if remaining > _LINE_END:
                part = data[at : at + remaining - _LINE_END]
                parts.append(part)
                at += len(part)
                self._remaining = remaining - len(part)
            elif remaining > 0:
                if data[at] != b"\r\n"[_LINE_END - remaining]:
                    raise HttpError("a chunk longer than it said")
                self._remaining = remaining - 1
                at += 1
            else:
                at = self._feed_line(data, at)
        if parts:
            self._sink.on_body(parts[0] if len(parts) == 1 else b"".join(parts))
        if self._ended:
            if at < size:
                self.keep_alive = False
            self._finish()

    def _feed_line(self, data: bytes, at: int) -> int:
        """A chunk's size, or a trailer; returns where the next begins."""
        end = data.find(b"\r\n", at)
        if end == -1:
            self._buffer = data[at:]
            if len(self._buffer) > MAX_CHUNK_LINE_BYTES:
                raise HttpError("a chunk size that does not end")
            return len(data)
        line = data[at:end]
        if not self._trailers:
            self._begin_chunk(line)
        elif not line:
            self._ended = True
        return end + _LINE_END

    def _begin_chunk(self, line: bytes) -> None:
        digits = line.partition(b";")[0].strip()
        try:
            # int() would also take signs, underscores and spaces.
            length = int(digits, 16) if digits.isalnum() else -1
        except ValueError:
            length = -1
        if length < 0:
            raise HttpError("a chunk size that is no number")
        if length == 0:
            self._trailers = True
        else:
            self._remaining = length + 2

    def _finish(self) -> None:
        self.complete = True
        self._sink.on_complete()
