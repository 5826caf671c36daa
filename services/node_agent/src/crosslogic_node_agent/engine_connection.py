"""Connections to the engine: one request at a time each, kept alive, driven straight from the event loop."""

import asyncio
import re
from collections.abc import Callable
from typing import Protocol, cast

from crosslogic_node_agent.domain import EngineAddress
from crosslogic_node_agent.http1 import AnswerParser, HttpError

MAX_IDLE = 256
IDLE_S = 3.0
"""uvicorn closes what was idle for 5 s; what is nearly that old is not used again."""
CONNECT_TIMEOUT_S = 2.0
_SECONDS = re.compile(rb"[0-9]{1,5}(?:\.[0-9]{1,6})?")


class Exchange(Protocol):
    """One request's answer, as it arrives."""

    def on_head(self, status: int, content_type: str) -> None:
        """The engine answered."""

    def on_body(self, data: bytes) -> None:
        """Bytes of the answer."""

    def on_complete(self) -> None:
        """The answer is complete."""

    def on_lost(self, reason: str, *, answered: bool) -> None:
        """The connection ended before the answer did. `answered`: a byte of the answer had come."""


class EngineConnection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_answered",
        "_exchange",
        "_hung_up",
        "_on_idle",
        "_parser",
        "_paused",
        "_transport",
        "idle_since",
        "used",
    )

    def __init__(self, on_idle: Callable[["EngineConnection"], None]) -> None:
        self._on_idle = on_idle
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser: AnswerParser | None = None
        self._answered = False
        self._paused = False
        self._hung_up = False
        self.idle_since = 0.0
        self.used = False
        """It has served a request before the present one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        # A cast and no check: uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    @property
    def open(self) -> bool:
        """Whether it can carry a request."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, exchange: Exchange) -> None:
        """Sends a request; its answer goes to `exchange`."""
        assert self._transport is not None  # noqa: S101  # only connected ones are handed out
        self._exchange = exchange
        self._parser = AnswerParser(exchange)
        self._answered = False
        self._transport.write(request)

    @property
    def retry_after_s(self) -> float:
        """When the engine wants to be asked again, as the head of its answer said, in seconds. 0: it did not say."""
        said = b"" if self._parser is None else self._parser.retry_after
        return float(said) if _SECONDS.fullmatch(said) else 0.0

    def pause(self) -> None:
        """Reads nothing more from the engine until `resume`."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads again."""
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def hang_up(self) -> bool:
        """Tells the engine that its answer is no longer wanted, but still reads what it has sent; False: it cannot.

        The engine's server ends a request whose client half-closed; what it had written by then arrives, so that the
        count of tokens is the engine's own.
        """
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > 0:
            return False
        try:
            transport.write_eof()
        except (OSError, RuntimeError):
            return False
        self._hung_up = True
        self.resume()
        return True

    def abort(self) -> None:
        """Closes at once; nothing more is told to the exchange."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        parser = self._parser
        if parser is None or self._exchange is None:
            # The engine speaks out of turn: not to be trusted with another request.
            self.abort()
            return
        self._answered = True
        try:
            parser.feed(data)
        except HttpError as error:
            self._lose(str(error))
            return
        if parser.complete:
            self._release(keep=parser.keep_alive)

    def eof_received(self) -> None:
        """The engine closed."""
        parser = self._parser
        if parser is None or self._exchange is None:
            return
        try:
            parser.feed_eof()
        except HttpError as error:
            self._lose(str(error))
            return
        self._release(keep=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._lose(str(exc) if exc else "the connection was closed")

    def _lose(self, reason: str) -> None:
        exchange = self._exchange
        answered = self._answered
        self.abort()
        if exchange is not None:
            exchange.on_lost(reason, answered=answered)

    def _release(self, *, keep: bool) -> None:
        self._exchange = None
        self._parser = None
        self.used = True
        self.resume()
        # An answer that was complete before the engine heard of the end leaves a connection that takes no request.
        if keep and self.open and not self._hung_up:
            self._on_idle(self)
        elif self._transport is not None:
            self._transport.abort()


class Dialer(Protocol):
    """How the engine is connected to."""

    idle_s: float
    """A connection that was idle for so long is not used again."""
    timeout_s: float
    """How long connecting may take."""

    async def dial(self, make: Callable[[], EngineConnection]) -> EngineConnection:
        """A connection that `make` made, connected. Raises OSError."""


class LocalDialer:
    """An engine on this machine, or near it."""

    def __init__(self, address: EngineAddress) -> None:
        self.idle_s = IDLE_S
        self.timeout_s = CONNECT_TIMEOUT_S
        self._address = address

    async def dial(self, make: Callable[[], EngineConnection]) -> EngineConnection:
        """A connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._address.socket_path:
            _, connection = await loop.create_unix_connection(make, self._address.socket_path)
        else:
            _, connection = await loop.create_connection(make, self._address.host, self._address.port)
        return connection


class EnginePool:
    """Keeps idle connections for the next request."""

    def __init__(self, engine: EngineAddress | Dialer) -> None:
        self._dialer: Dialer = LocalDialer(engine) if isinstance(engine, EngineAddress) else engine
        self._idle: list[EngineConnection] = []

    def idle_connection(self) -> EngineConnection | None:
        """An open connection that waits for work, the latest used first. None: connect."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.open and now - connection.idle_since < self._dialer.idle_s:
                return connection
            connection.abort()
        return None

    async def connect(self, *, shared: bool = True) -> EngineConnection:
        """A new connection. Raises OSError or TimeoutError.

        One that is not `shared` is its caller's alone: it never waits among the others for the next request, which its
        caller, who still holds it, would end unawares.
        """

        def make() -> EngineConnection:
            return EngineConnection(self._put_back if shared else EngineConnection.abort)

        async with asyncio.timeout(self._dialer.timeout_s):
            return await self._dialer.dial(make)

    def close(self) -> None:
        """Closes what is idle."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.abort()

    def _put_back(self, connection: EngineConnection) -> None:
        if len(self._idle) >= MAX_IDLE:
            connection.abort()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)


def request_bytes(method: str, path: str, body: bytes = b"", request_id: str = "", traceparent: str = "") -> bytes:
    """An HTTP/1.1 request. `path`, `request_id` and `traceparent` must hold visible ASCII only."""
    head = f"{method} {path} HTTP/1.1\r\nHost: engine\r\n"
    if request_id:
        head += f"X-Request-Id: {request_id}\r\n"
    if traceparent:
        head += f"traceparent: {traceparent}\r\n"
    if body or method == "POST":
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (head + "\r\n").encode("ascii") + body
