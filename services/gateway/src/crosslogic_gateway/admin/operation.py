"""One operation of the admin API: what it takes and gives, and how its handler is reached."""

import hashlib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import grpc.aio
import msgspec
from aiohttp import web

from crosslogic.identity.v1 import identity_pb2 as identity_pb
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_gateway.admin.access import PLATFORM_ADMIN, PLATFORM_READER, Access, authorised
from crosslogic_gateway.admin.auth import AdminGate
from crosslogic_gateway.admin.decoding import decoded_body, decoded_query, no_body, no_query
from crosslogic_gateway.admin.deps import AdminDeps, Rpc
from crosslogic_gateway.admin.event_stream import send_events
from crosslogic_gateway.admin.who import Administrator
from crosslogic_gateway.http import SHOWN_REQUEST_ID, answer_headers
from crosslogic_gateway.idempotency.domain import IDEMPOTENCY_HEADER
from crosslogic_gateway.idempotency.domain import MAX_KEY_CHARS as MAX_IDEMPOTENCY_KEY

Body = TypeVar("Body", bound=msgspec.Struct | None)
Query = TypeVar("Query", bound=msgspec.Struct | None)
Request = TypeVar("Request")
Response = TypeVar("Response")

MAX_AUDITED_CHARS = 60_000
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
    who: Administrator
    actor: identity_pb.Actor
    """The same for the audit log; known once the call is authorised."""

    async def rpc(self, method: Rpc[Request, Response], request: Request, *, may_refuse: bool = False) -> Response:
        """Calls a neighbour. Raises CodedError that tells nothing of how we are built.

        `may_refuse`: PERMISSION_DENIED is the neighbour's word on what was asked, not on who we are.
        """
        try:
            return await method(request, timeout=self.deps.timeout_s, metadata=(("x-request-id", self.request_id),))
        except grpc.aio.AioRpcError as error:
            coded = from_rpc_error(error)
            # That *we* were refused, or a neighbour is broken, is no fault of the operator's.
            if may_refuse and coded.code is ErrorCode.PERMISSION_DENIED:
                raise coded from None
            if coded.code in (ErrorCode.PERMISSION_DENIED, ErrorCode.UNAUTHENTICATED, ErrorCode.CANCELLED):
                raise CodedError(ErrorCode.INTERNAL, private=str(coded)) from None
            raise coded from None

    def create_request_id(self, what: str) -> str:
        """The neighbour's `request_id` for the client's `Idempotency-Key`; empty without one.

        Each administrator has keys of his own: what somebody else made with the same one is not his to be shown.
        """
        if not self.idempotency_key:
            return ""
        return str(uuid.uuid5(_IDEMPOTENCY_SPACE, f"{what}:{self.who.id}:{self.idempotency_key}"))


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
    events: Callable[[Call[Body, Query]], AsyncGenerator[msgspec.Struct, None]] | None = None
    """Sends answers as server-sent events, instead of `handle`'s one."""
    status: int = 200
    idempotent_by_key: bool = False
    """The neighbour too knows a retry with the same `Idempotency-Key`."""
    errors: tuple[int, ...] = ()
    """HTTP statuses besides 400, 401, 403, 503 and 504 that it may give; a POST also 409."""
    access: Access | None = None
    """Who may use it. None: the platform's own people, to read any of them and to change its administrators."""
    unwritten: frozenset[str] = frozenset()
    """Fields of the body that are secret: the audit log says that they were there, and no more."""
    recorded_by_identity: bool = False
    """Identity writes the audit record with the change. Else everything but GET is written down before and after."""

    @property
    def changes(self) -> bool:
        """Whether it is more than a read."""
        return self.method != "GET"

    @property
    def who_may(self) -> Access:
        """Who may use it."""
        return self.access or (PLATFORM_ADMIN if self.changes else PLATFORM_READER)


def route_of(operation: Operation[Any, Any], deps: AdminDeps, gate: AdminGate) -> web.RouteDef:
    """The operation as a route of aiohttp."""

    async def handle(request: web.Request) -> web.StreamResponse:
        # Before anything is read: who is not let in learns nothing of what would be valid.
        who = await gate.admitted(request, changes=operation.changes)
        if operation.method == "POST" and deps.idempotency is not None and IDEMPOTENCY_HEADER in request.headers:
            # An answer is given again only to somebody who may still ask.
            await _authorised_call(operation, deps, request, who)
            return await deps.idempotency.answer(
                request, scope=f"admin:{who.id}", run=lambda again: carry_out(again, who)
            )
        return await carry_out(request, who)

    async def carry_out(request: web.Request, who: Administrator) -> web.StreamResponse:
        call = await _authorised_call(operation, deps, request, who)
        if operation.events is not None:
            return await send_events(request, operation.events(call))
        answer = await (operation.handle(call) if _is_recorded_elsewhere(operation) else recorded(operation, call))
        return web.Response(
            status=operation.status,
            body=msgspec.json.encode(answer),
            headers=answer_headers(request, "application/json"),
        )

    return web.route(operation.method, operation.path, handle, name=operation.name)


async def recorded(operation: Operation[Any, Any], call: Call[Any, Any]) -> msgspec.Struct:
    """Carries out what another service than identity does, between two audit records.

    The first is written before anything is done: what cannot be written down is not done. Raises what the operation
    raises, and UNAVAILABLE when the audit log cannot be written.
    """
    entry = identity_pb.RecordAuditRequest(
        actor=call.actor,
        action=operation.name,
        outcome="started",
        org_id=_about_org(call),
        object_kind=operation.tag.lower(),
        object_id=_object_id(call),
        after_json=audited_body(call.body, unwritten=operation.unwritten),
    )
    await call.rpc(call.deps.identity().RecordAudit, entry)
    try:
        answer = await operation.handle(call)
    except BaseException as error:
        # Without an answer of the neighbour it may have happened all the same.
        known = isinstance(error, CodedError) and error.code not in (ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT)
        await _note_outcome(call, entry, "failed", "" if known else "outcome not known")
        raise
    await _note_outcome(call, entry, "succeeded", "")
    return answer


async def _note_outcome(call: Call[Any, Any], entry: identity_pb.RecordAuditRequest, outcome: str, reason: str) -> None:
    entry.outcome, entry.reason = outcome, reason
    try:
        await call.rpc(call.deps.identity().RecordAudit, entry)
    except CodedError as error:
        # The record of the start stands; the request's id leads to the log.
        get_logger(__name__).error("audit outcome not written", action=entry.action, reason=error.private)


def _is_recorded_elsewhere(operation: Operation[Any, Any]) -> bool:
    return operation.recorded_by_identity or not operation.changes


def audited_body(body: msgspec.Struct | None, *, unwritten: frozenset[str] = frozenset()) -> str:
    """What was asked for as JSON, without the values of the fields `unwritten`.

    Of what is too long for the log only its hash, so that it can be told again.
    """
    if body is None:
        return ""
    fields: dict[str, Any] = msgspec.to_builtins(body)
    for name in unwritten & {name for name, value in fields.items() if value}:
        fields[name] = "(secret)"
    encoded = msgspec.json.encode(fields)
    text = encoded.decode()
    if len(text) <= MAX_AUDITED_CHARS:
        return text
    return msgspec.json.encode({"bytes": len(encoded), "sha256": hashlib.sha256(encoded).hexdigest()}).decode()


def _about_org(call: Call[Any, Any]) -> str:
    """The organisation that a call is about, as far as it says so."""
    named = getattr(call.body, "org_id", "") or getattr(call.query, "org_id", "") or call.actor.org_id
    try:
        return str(uuid.UUID(named)) if named else ""
    except (ValueError, TypeError, AttributeError):
        return ""


def _object_id(call: Call[Any, Any]) -> str:
    named = next(iter(call.path.values()), "") or getattr(call.body, "name", "") or getattr(call.body, "id", "")
    return "".join(char for char in str(named)[:200] if char.isprintable())


async def _authorised_call(
    operation: Operation[Any, Any], deps: AdminDeps, request: web.Request, who: Administrator
) -> Call[Any, Any]:
    call = await _call_of(operation, deps, request, who)
    place = await authorised(operation.who_may, call)
    return replace(call, actor=who.actor(place, call.request_id))


async def _call_of(
    operation: Operation[Any, Any], deps: AdminDeps, request: web.Request, who: Administrator
) -> Call[Any, Any]:
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
        who=who,
        actor=who.actor(None, request[SHOWN_REQUEST_ID]),
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
