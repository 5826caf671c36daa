"""The HTTP server's connections: a slow head is cut off, and what is no HTTP gets an error that clients can read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from crosslogic_common.errors import CodedError, ErrorCode, http_status, to_openai_body
from crosslogic_gateway.http import SECURITY_HEADERS

LINGER_S = 2.0
"""How long a gateway that stops waits for one more request on a connection that was kept open."""
_LOOK_S = 0.02
_STOOD_STILL_S = 0.1
"""After so long between two looks we stood still, and clients perhaps with us: that is no time to be idle in."""


class EdgeProtocol(RequestHandler):
    """One client connection."""

    __slots__ = ("head_since",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected: its first request's head is due."""
        super().connection_made(transport)
        self.head_since: float | None = self._loop.time()

    def data_received(self, data: bytes) -> None:
        """Bytes came. While they complete no request, a head is under way."""
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self.head_since = None
        elif self.head_since is None and not self._request_in_progress:
            self.head_since = self._loop.time()

    def handle_error(
        self,
        request: BaseRequest,  # noqa: ARG002  # the signature is aiohttp's
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # the signature is aiohttp's
    ) -> web.StreamResponse:
        """The answer to what could not be parsed, or failed outside every handler."""
        if status < 500:  # HTTP's own boundary  # noqa: PLR2004
            error = CodedError(ErrorCode.INVALID_ARGUMENT, "The request is not valid HTTP.")
        else:
            error = CodedError(ErrorCode.INTERNAL)
            self.log_exception("Error handling request", exc_info=exc)
        response = web.Response(
            status=http_status(error),
            body=to_openai_body(error, ""),
            content_type="application/json",
            headers=dict(SECURITY_HEADERS),
        )
        response.force_close()
        return response

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._request_in_progress

    @property
    def requests(self) -> int:
        """How many came so far."""
        return self._request_count

    def end_with_next_answer(self) -> None:
        """The next request that comes is still answered, and told that it was this connection's last.

        An answer under way may have said already that the connection stays open: a client that then sends another
        request must not find it closed.
        """
        factory = self._request_factory
        if factory is not None:
            self._request_factory = partial(_last_request, factory)

    def head_overdue(self, now: float, timeout_s: float) -> bool:
        """Whether a request's head has been under way for longer than `timeout_s`."""
        return self.head_since is not None and not self._request_in_progress and now - self.head_since > timeout_s

    def refuse_slow_head(self) -> None:
        """Tells the client that its head did not come in time, and closes."""
        error = CodedError(ErrorCode.REQUEST_TIMEOUT)
        body = to_openai_body(error, "")
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
        self.force_close()


def _last_request(
    factory: Callable[..., BaseRequest], message: RawRequestMessage, payload: StreamReader, *rest: Any
) -> BaseRequest:
    """A request after whose answer the connection is closed, as the answer says."""
    return factory(message._replace(should_close=True), payload, *rest)


class EdgeServer(web.Server):
    """The connections of one application."""

    def __call__(self) -> RequestHandler:
        """A protocol for a new connection."""
        return EdgeProtocol(self, loop=self._loop, **self._kwargs)


class EdgeRunner(web.AppRunner):
    """Runs the application on EdgeServer."""

    def __init__(self, app: web.Application, *, head_timeout_s: float, keepalive_timeout_s: float) -> None:
        """Refuses a head that takes longer than `head_timeout_s`; closes what is idle for `keepalive_timeout_s`."""
        super().__init__(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        self._head_timeout_s = head_timeout_s
        self._keepalive_timeout_s = keepalive_timeout_s

    async def _make_server(self) -> web.Server:
        # The base class prepares the application (its start-up, its frozen routes); only its protocol is replaced.
        prepared = await super()._make_server()
        return EdgeServer(
            prepared.request_handler,
            request_factory=prepared.request_factory,
            handler_cancellation=True,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=self._keepalive_timeout_s,
            lingering_time=2.0,
        )

    async def finish(self, grace_s: float) -> None:
        """Ends the connections there are, in at most `grace_s` seconds.

        What is being answered is answered. A connection that is kept open gets one more answer, which says that it was
        the last; one on which nothing comes for LINGER_S is closed.
        """
        server = self.server
        if server is None:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + grace_s
        for connection in _open_connections(server):
            connection.end_with_next_answer()
        idle: dict[EdgeProtocol, tuple[int, float]] = {}
        looked_at, listened_s = loop.time(), 0.0
        while (left := _open_connections(server)) and looked_at < until:
            idle = {each: idle.get(each, (each.requests, listened_s)) for each in left if not each.busy}
            for each, (requests, since_s) in idle.items():
                if each.requests != requests:
                    idle[each] = (each.requests, listened_s)
                elif listened_s - since_s >= min(LINGER_S, grace_s):
                    each.force_close()
            await asyncio.sleep(_LOOK_S)
            before, looked_at = looked_at, loop.time()
            if looked_at - before < _STOOD_STILL_S:
                listened_s += looked_at - before

    @contextlib.asynccontextmanager
    async def refusing_slow_heads(self) -> AsyncIterator[None]:
        """Looks at all connections once a second for as long as the block lasts."""
        task = asyncio.create_task(self._refuse_slow_heads(), name="slow heads")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _refuse_slow_heads(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            server = self.server
            if server is None:
                continue
            now = loop.time()
            for connection in server.connections:
                if isinstance(connection, EdgeProtocol) and connection.head_overdue(now, self._head_timeout_s):
                    connection.refuse_slow_head()


def _open_connections(server: web.Server) -> list[EdgeProtocol]:
    return [
        each
        for each in server.connections
        if isinstance(each, EdgeProtocol) and each.transport is not None and not each.transport.is_closing()
    ]
