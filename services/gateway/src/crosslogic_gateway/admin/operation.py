"""One operation of the admin API: what it takes and gives, and how its handler is reached."""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc.aio
import msgspec
from aiohttp import web

from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_gateway.admin.auth import AdminGate
from crosslogic_gateway.admin.decoding import decoded_body, decoded_query, no_body, no_query
from crosslogic_gateway.admin.deps import AdminDeps, Rpc
from crosslogic_gateway.http import SHOWN_REQUEST_ID, answer_headers
from crosslogic_gateway.idempotency.domain import IDEMPOTENCY_HEADER
from crosslogic_gateway.idempotency.domain import MAX_KEY_CHARS as MAX_IDEMPOTENCY_KEY

Body = TypeVar("Body", bound=msgspec.Struct | None)
Query = TypeVar("Query", bound=msgspec.Struct | None)
Request = TypeVar("Request")
Response = TypeVar("Response")

_IDEMPOTENCY_SPACE = uuid.UUID("0e3a4b0e-8c0f-5d36-9f3e-6b0c5a4d2f11")


@dataclass(frozen=True, slots=True)
class Call(Generic[Body, Query]):
    """One request, checked."""

    deps: AdminDeps
    path: Mapping[str, str]
    body: Body
    query: Query
    request_id: str
    idempotency_key: str

    async def rpc(self, method: Rpc[Request, Response], request: Request) -> Response:
        """Calls a neighbour. Raises CodedError that tells nothing of how we are built."""
        try:
            return await method(request, timeout=self.deps.timeout_s, metadata=(("x-request-id", self.request_id),))
        except grpc.aio.AioRpcError as error:
            coded = from_rpc_error(error)
            # That *we* were refused, or a neighbour is broken, is no fault of the operator's.
            if coded.code in (ErrorCode.PERMISSION_DENIED, ErrorCode.UNAUTHENTICATED, ErrorCode.CANCELLED):
                raise CodedError(ErrorCode.INTERNAL, private=str(coded)) from None
            raise coded from None

    def create_request_id(self, what: str) -> str:
        """The neighbour's `request_id` for the client's `Idempotency-Key`; empty without one."""
        return str(uuid.uuid5(_IDEMPOTENCY_SPACE, f"{what}:{self.idempotency_key}")) if self.idempotency_key else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Generic[Body, Query]):
    """One method of one path."""

    method: str
    path: str
    name: str
    """The document's `operationId`."""
    summary: str
    tag: str
    handle: Callable[[Call[Body, Query]], Awaitable[msgspec.Struct]]
    answer: type[msgspec.Struct]
    body: type[msgspec.Struct] | None = None
    body_optional: bool = False
    query: type[msgspec.Struct] | None = None
    status: int = 200
    idempotent_by_key: bool = False
    """The neighbour too knows a retry with the same `Idempotency-Key`."""
    errors: tuple[int, ...] = ()
    """HTTP statuses besides 400, 401, 503 and 504 that it may give; a POST also 409."""


def route_of(operation: Operation[Any, Any], deps: AdminDeps, gate: AdminGate) -> web.RouteDef:
    """The operation as a route of aiohttp."""

    async def handle(request: web.Request) -> web.StreamResponse:
        # Before anything is read: who is not let in learns nothing of what would be valid.
        gate.check(request)
        if operation.method == "POST" and deps.idempotency is not None and IDEMPOTENCY_HEADER in request.headers:
            return await deps.idempotency.answer(request, scope="admin:token", run=carry_out)
        return await carry_out(request)

    async def carry_out(request: web.Request) -> web.StreamResponse:
        answer = await operation.handle(await _call_of(operation, deps, request))
        return web.Response(
            status=operation.status,
            body=msgspec.json.encode(answer),
            headers=answer_headers(request, "application/json"),
        )

    return web.route(operation.method, operation.path, handle, name=operation.name)


async def _call_of(operation: Operation[Any, Any], deps: AdminDeps, request: web.Request) -> Call[Any, Any]:
    query = None
    if operation.query is None:
        no_query(request)
    else:
        query = decoded_query(request, operation.query)
    body = None
    if operation.body is None:
        await no_body(request)
    else:
        body = await decoded_body(request, operation.body, optional=operation.body_optional)
    return Call(
        deps=deps,
        path=request.match_info,
        body=body,
        query=query,
        request_id=request[SHOWN_REQUEST_ID],
        idempotency_key=_idempotency_key(request) if operation.idempotent_by_key else "",
    )


def _idempotency_key(request: web.Request) -> str:
    key = request.headers.get(IDEMPOTENCY_HEADER, "")
    if len(key) > MAX_IDEMPOTENCY_KEY or not key.isascii():
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT,
            f"`{IDEMPOTENCY_HEADER}` must have at most {MAX_IDEMPOTENCY_KEY} ASCII characters.",
            param=IDEMPOTENCY_HEADER,
        )
    return key
