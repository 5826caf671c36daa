"""HTTP/1.1 answers, parsed as they arrive. Pure.

The agent speaks to one known engine on the same machine. A parser of its own, called straight from the socket, costs a
fifth of a general client's task switches and stream objects for each token (README, "Cost").
"""

from typing import Protocol

MAX_HEAD_BYTES = 64 * 1024
MAX_CHUNK_LINE_BYTES = 1024


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

    __slots__ = ("_buffer", "_in_body", "_remaining", "_sink", "_trailers", "chunked", "complete", "keep_alive")

    def __init__(self, sink: AnswerSink) -> None:
        self._sink = sink
        self._buffer = b""
        self._in_body = False
        self._remaining = 0
        """Bytes still due of the body, or of the present chunk with its line end; -1: until the peer closes."""
        self._trailers = False
        self.chunked = False
        self.complete = False
        self.keep_alive = True

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
        content_type = ""
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            name = name.lower()
            value = value.strip()
            if name == b"content-type":
                content_type = value.decode("latin-1")
            elif name == b"content-length":
                if not value.isdigit():
                    raise HttpError("a content length that is no number")
                self._remaining = int(value)
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked":
                    raise HttpError("an unknown transfer encoding")
                self.chunked = True
            elif name == b"connection" and value.lower() == b"close":
                self.keep_alive = False
        if self.chunked:
            self._remaining = 0
        elif self._remaining == -1:
            self.keep_alive = False
        return int(code), content_type

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
        last = False
        while at < size:
            remaining = self._remaining
            if remaining > 2:  # noqa: PLR2004  # the line end that closes a chunk
                take = min(remaining - 2, size - at)
                parts.append(data[at : at + take])
                at += take
                self._remaining = remaining - take
            elif remaining > 0:
                if data[at] != b"\r\n"[2 - remaining]:
                    raise HttpError("a chunk longer than it said")
                self._remaining = remaining - 1
                at += 1
            else:
                end = data.find(b"\r\n", at)
                if end == -1:
                    self._buffer = data[at:]
                    if len(self._buffer) > MAX_CHUNK_LINE_BYTES:
                        raise HttpError("a chunk size that does not end")
                    break
                line = data[at:end]
                at = end + 2
                if self._trailers:
                    if not line:
                        last = True
                        break
                    continue
                self._begin_chunk(line)
        if parts:
            self._sink.on_body(parts[0] if len(parts) == 1 else b"".join(parts))
        if last:
            if at < size:
                self.keep_alive = False
            self._finish()

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
