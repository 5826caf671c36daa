"""What every request meets before its handler: the middlewares, in the order in which they stand here."""

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Middleware

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.logs import get_logger
from crosslogic_gateway.access_log import AccessLog
from crosslogic_gateway.body import MAX_BODY_BYTES
from crosslogic_gateway.http import (
    CORS_ORIGIN,
    RECEIVED_AT,
    REQUEST_ID,
    SHOWN_REQUEST_ID,
    answer_headers,
    body_bytes,
    error_response,
    shown_request_id,
)
from crosslogic_gateway.request_metrics import RequestMetrics
from crosslogic_gateway.request_traces import RequestTraces

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
CLIENT_CLOSED_REQUEST = 499
_WITH_BODY = frozenset({"POST", "PATCH", "PUT"})
_CORS_METHODS = "GET, POST, PATCH, PUT, DELETE, OPTIONS"
_CORS_HEADERS = (
    "Authorization, Content-Type, X-Request-ID, Idempotency-Key, X-Admin-Token, "
    "X-CrossLogic-Priority, X-CrossLogic-Queue-Timeout-Ms"
)


@dataclass(frozen=True, slots=True)
class EdgePolicy:
    """How the edge treats requests."""

    trusted_proxies: tuple[Network, ...]
    """Peers whose `X-Forwarded-For` is believed."""
    cors_origins: frozenset[str]
    """Origins that browsers may call from; `*`: any."""


class Edge:
    """Gives each request its id and its time, makes every failure a body that clients understand, keeps count."""

    def __init__(
        self,
        *,
        policy: EdgePolicy,
        ids: Uuid7Source,
        access_log: AccessLog,
        metrics: RequestMetrics,
        traces: RequestTraces | None = None,
    ) -> None:
        """Without `traces` no request is traced."""
        self._policy = policy
        self._ids = ids
        self._access_log = access_log
        self._metrics = metrics
        self._traces = traces
        self._loop = asyncio.get_running_loop()
        self._log = get_logger(__name__)

    @property
    def middlewares(self) -> tuple[Middleware, ...]:
        """One middleware: each more would cost every request a coroutine."""
        return (self._envelope if self._traces is None else self._traced,)

    @web.middleware
    async def _traced(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The envelope, in a span where the request is sampled."""
        found = None if self._traces is None else self._traces.begin(request.headers)
        if found is None:
            return await self._envelope(request, handler)
        status = CLIENT_CLOSED_REQUEST
        try:
            with found.current():
                response = await self._envelope(request, handler)
            status = response.status
            return response
        finally:
            found.end(request, status)
            elapsed_s = self._loop.time() - request[RECEIVED_AT]
            self._metrics.exemplify(request, elapsed_s, found.trace_id)

    @web.middleware
    async def _envelope(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Request id, security headers, access log, metrics, and recovery from whatever goes wrong inside."""
        now = self._loop.time
        started = now()
        request_id = self._ids.next_text()
        request[REQUEST_ID] = request_id
        request[SHOWN_REQUEST_ID] = shown_request_id(request.headers.get("X-Request-ID"), request_id)
        request[RECEIVED_AT] = started
        status = CLIENT_CLOSED_REQUEST
        response: web.StreamResponse | None = None
        self._metrics.begin()
        try:
            response = await self._answered(request, handler)
            status = response.status
            if isinstance(response, web.Response) and "X-Frame-Options" not in response.headers:
                response.headers.update(answer_headers(request, response.headers.get("Content-Type", "text/plain")))
            return response
        finally:
            elapsed_s = now() - started
            self._metrics.observe(request, status, elapsed_s, body_bytes(request, response))
            self._access_log.write(
                time.time(), request.method, request.path, status, elapsed_s, request_id, self.client_address(request)
            )

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            origin = request.headers.get("Origin")
            if origin is not None and self._origin_allowed(origin):
                request[CORS_ORIGIN] = origin
                if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                    return _preflight(request)
            if request.method in _WITH_BODY:
                _check_content(request)
            return await handler(request)
        except CodedError as error:
            if error.private:
                self._log.info("request failed", request_id=request[REQUEST_ID], code=error.code, reason=error.private)
            return error_response(request, error)
        except web.HTTPException as error:
            return error_response(request, _coded(error))
        except ConnectionError:
            # The client left while it was answered; there is nobody to tell.
            raise
        except Exception:  # noqa: BLE001  # whatever it is, the client gets a clean answer
            self._log.exception("request failed", request_id=request[REQUEST_ID])
            return error_response(request, CodedError(ErrorCode.INTERNAL))

    def client_address(self, request: web.Request) -> str:
        """The client's address: the peer's, or behind a trusted proxy the last untrusted one it names."""
        peer = request.remote or ""
        forwarded = request.headers.get("X-Forwarded-For")
        if not self._policy.trusted_proxies or forwarded is None or not self._trusted(peer):
            return peer
        for hop in reversed([hop.strip() for hop in forwarded.split(",")]):
            if not self._trusted(hop):
                return hop if _is_address(hop) else peer
        return peer

    def _trusted(self, text: str) -> bool:
        try:
            found = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(found in network for network in self._policy.trusted_proxies)

    def _origin_allowed(self, origin: str) -> bool:
        return origin in self._policy.cors_origins or "*" in self._policy.cors_origins


def _preflight(request: web.Request) -> web.Response:
    """The answer to a browser that asks whether it may call."""
    headers = answer_headers(request, "text/plain")
    headers["Access-Control-Allow-Methods"] = _CORS_METHODS
    headers["Access-Control-Allow-Headers"] = _CORS_HEADERS
    headers["Access-Control-Max-Age"] = "600"
    return web.Response(status=204, headers=headers)


def _check_content(request: web.Request) -> None:
    """Refuses bodies that are too large or no JSON before they are read."""
    length = request.content_length
    if length is not None and length > MAX_BODY_BYTES:
        raise CodedError(ErrorCode.REQUEST_TOO_LARGE)
    if request.content_type != "application/json" and (length or request.can_read_body):
        raise CodedError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _coded(error: web.HTTPException) -> CodedError:
    """What aiohttp raised, in our words."""
    if error.status == 413:  # HTTP's own numbers  # noqa: PLR2004
        return CodedError(ErrorCode.REQUEST_TOO_LARGE)
    if error.status == 404:  # noqa: PLR2004
        return CodedError(ErrorCode.NOT_FOUND, "There is nothing at this path. See /openapi.json.")
    if error.status == 405:  # noqa: PLR2004
        return CodedError(ErrorCode.METHOD_NOT_ALLOWED)
    return CodedError(ErrorCode.INVALID_ARGUMENT if error.status < 500 else ErrorCode.INTERNAL)  # noqa: PLR2004
