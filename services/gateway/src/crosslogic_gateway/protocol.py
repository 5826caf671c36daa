"""The HTTP server's connections: a slow head is cut off, and what is no HTTP gets an error that clients can read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from crosslogic_common.errors import CodedError, ErrorCode, http_status, to_openai_body
from crosslogic_gateway.http import SECURITY_HEADERS


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
        """Closes idle connections and waits until the others are answered, at most `grace_s` seconds."""
        server = self.server
        if server is None:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + grace_s
        server.pre_shutdown()
        while loop.time() < until and any(
            isinstance(connection, EdgeProtocol) and connection.busy for connection in server.connections
        ):
            await asyncio.sleep(0.02)

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
