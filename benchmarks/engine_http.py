"""The canned engine over HTTP/1.1: what a client measures when nothing stands between it and the engine."""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import cast

from benchmarks.canned_engine import END_OF_STREAM, CannedEngine, Profile, chat_answer, chat_chunk, profile_of

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_LAST = b"%x\r\n%b\r\n0\r\n\r\n" % (len(END_OF_STREAM), END_OF_STREAM)


@lru_cache(maxsize=256)
def _whole(tokens: int) -> bytes:
    body = chat_answer(tokens)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@lru_cache(maxsize=65_536)
def _chunk(number: int) -> bytes:
    data = chat_chunk(number)
    return b"%x\r\n%b\r\n" % (len(data), data)


class _HttpAnswer:
    """One answer on a connection."""

    def __init__(self, transport: asyncio.Transport, profile: Profile) -> None:
        self._transport = transport
        self._profile = profile
        self.cancel: Callable[[], None] | None = None

    def whole(self) -> None:
        self._transport.write(_whole(self._profile.tokens))

    def tokens(self, first: int, count: int) -> bool:
        if self._transport.get_write_buffer_size() > 262_144:
            return False
        data = b"".join(_chunk(number) for number in range(first, first + count))
        self._transport.write(_STREAM_HEAD + data if first == 0 else data)
        return True

    def done(self) -> None:
        self._transport.write(_LAST)


class EngineConnection(asyncio.Protocol):
    """Requests with a content length, one after the other."""

    def __init__(self, engine: CannedEngine) -> None:
        self._engine = engine
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: _HttpAnswer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while True:
            head, separator, rest = self._received.partition(b"\r\n\r\n")
            if not separator:
                return
            size = _content_length(head)
            if len(rest) < size:
                return
            self._received = rest[size:]
            self._begin(rest[:size])

    def connection_lost(self, _: Exception | None) -> None:
        if self._answer is not None and self._answer.cancel is not None:
            self._answer.cancel()

    def _begin(self, body: bytes) -> None:
        assert self._transport is not None
        profile = profile_of(body)
        self._answer = _HttpAnswer(self._transport, profile)
        self._answer.cancel = self._engine.start(profile, b'"stream":true' in body, self._answer)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
