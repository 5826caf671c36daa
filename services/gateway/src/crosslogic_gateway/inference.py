"""One inference request from its key to its usage record: the hot path (docs/architecture.md)."""

import asyncio
from collections.abc import Callable
from functools import partial

from aiohttp import web

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.abuse.watch import AbuseWatch
from crosslogic_gateway.admission.admission import Admission
from crosslogic_gateway.admission.held_ticket import HeldTicket
from crosslogic_gateway.admission.refusals import RefusedError
from crosslogic_gateway.admission.ticket import Ticket
from crosslogic_gateway.attempts import Api, Attempts, Job
from crosslogic_gateway.body import InferenceBody, check_against_model, parse_body
from crosslogic_gateway.catalogue import Catalogue
from crosslogic_gateway.domain import Model, Principal
from crosslogic_gateway.http import RATE_LIMITS, RECEIVED_AT, REQUEST_ID
from crosslogic_gateway.keys import KeyCache
from crosslogic_gateway.networks import check_network
from crosslogic_gateway.request_metrics import AuthMetrics
from crosslogic_gateway.running import Running, end_cut
from crosslogic_gateway.shedding.overload import Claim, Decide, MeteredTicket, Overload
from crosslogic_gateway.usage_outbox import UsageOutbox

APIS: tuple[Api, ...] = (
    Api("/v1/chat/completions", agent_pb.ENGINE_API_CHAT_COMPLETIONS),
    Api("/v1/completions", agent_pb.ENGINE_API_COMPLETIONS),
    Api("/v1/embeddings", agent_pb.ENGINE_API_EMBEDDINGS),
    Api("/v1/responses", agent_pb.ENGINE_API_RESPONSES),
    Api("/v1/messages", agent_pb.ENGINE_API_MESSAGES),
)


class Inference:
    """Serves the inference APIs."""

    def __init__(
        self,
        *,
        keys: KeyCache,
        catalogue: Catalogue,
        admission: Admission,
        attempts: Attempts,
        usage: UsageOutbox,
        running: Running,
        abuse: AbuseWatch,
        client_address: Callable[[web.Request], str],
        overload: Overload,
        auth: AuthMetrics,
        body_timeout_s: float,
    ) -> None:
        """`body_timeout_s` is how long a client may take to send its body once the head is there.

        `client_address` tells a request's client, as the edge sees it.
        """
        self._keys = keys
        self._catalogue = catalogue
        self._admission = admission
        self._attempts = attempts
        self._usage = usage
        self._running = running
        self._abuse = abuse
        self._client_address = client_address
        self._overload = overload
        self._auth = auth
        self._body_timeout_s = body_timeout_s

    async def principal(self, request: web.Request) -> Principal:
        """Whose request it is. Raises what KeyCache.resolve raises, PERMISSION_DENIED (the key's networks)."""
        secret = _secret(request)
        try:
            principal = self._keys.cached(secret)
            if principal is None:
                await self._keys.resolve(secret)
                # Suspended while this task waited for its turn, it would run unseen by whoever cuts requests.
                principal = self._keys.cached(secret) or await self._keys.resolve(secret)
            if principal.allowed_networks:
                check_network(self._client_address(request), principal.allowed_networks)
        except CodedError as error:
            self._auth.failed(error.code.value)
            raise
        self._auth.succeeded()
        return principal

    async def serve(self, request: web.Request, api: Api) -> web.StreamResponse:
        """Answers one inference request. Raises CodedError for what is refused or fails before the first byte."""
        if self._usage.full:
            raise CodedError(ErrorCode.OVERLOADED, private="the usage outbox is full", retry_after_s=5.0)
        principal = await self.principal(request)
        task = self._running.begin(principal)
        self._abuse.request(principal, request[RECEIVED_AT])
        try:
            return await self._serve(request, api, principal)
        except CodedError as error:
            self._abuse.refused(principal, error.code)
            raise
        except asyncio.CancelledError:
            if not self._running.was_cut(task):
                raise
            task.uncancel()
            return await end_cut(request)
        finally:
            self._running.end(task)

    async def _serve(self, request: web.Request, api: Api, principal: Principal) -> web.StreamResponse:
        """Answers a request of somebody who is known."""
        raw = await self._body(request)
        body = parse_body(api.engine_api, raw)
        model = self._catalogue.require(body.model, principal)
        check_against_model(body, model)
        claim = await self._overload.claim(request.headers, principal, model, body)
        ticket, decide = await self._admitted(request, api, claim, principal, model, body, raw)
        try:
            await self._overload.enter(claim, model, body, len(raw), decide)
            job = Job(request, api, claim.principal, model, body, raw, ticket, claim.reserved, decide)
            return await self._attempts.run(job)
        finally:
            self._overload.leave(claim)
            if not ticket.kept:
                ticket.release()

    async def _admitted(
        self,
        request: web.Request,
        api: Api,
        claim: Claim,
        principal: Principal,
        model: Model,
        body: InferenceBody,
        raw: bytes,
    ) -> tuple[Ticket, Decide | None]:
        """What admission holds for the request, and where it is still being asked, how to wait for its word.

        Raises RefusedError.
        """
        try:
            ticket = await self._admission.admit(
                request_id=request[REQUEST_ID],
                principal=principal,
                model=model,
                body=body,
                raw=raw,
                api=api.path,
                reserved=claim.reserved,
                turn=claim.turn,
                early=not claim.reserved,
            )
        except RefusedError as refused:
            claim.used(0)
            if refused.layer == "global":
                self._overload.refused_by_service(claim)
            request[RATE_LIMITS] = refused.headers
            raise
        except BaseException:
            claim.used(0)
            raise
        if ticket.undecided is not None:
            return ticket, partial(self._decide, request, ticket)
        request[RATE_LIMITS] = ticket.headers
        return MeteredTicket(ticket, claim) if claim.reserved else ticket, None

    async def _decide(self, request: web.Request, ticket: HeldTicket) -> None:
        """Returns once the request is let in. Raises RefusedError."""
        try:
            await self._admission.decide(ticket)
        except RefusedError as refused:
            request[RATE_LIMITS] = refused.headers
            raise
        request[RATE_LIMITS] = ticket.headers

    async def _body(self, request: web.Request) -> bytes:
        """The request's body. One that trickles in is given up: it would hold its connection for ever."""
        if request.content.is_eof():
            return await request.read()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                return await request.read()
        except TimeoutError:
            raise CodedError(ErrorCode.REQUEST_TIMEOUT) from None


def _secret(request: web.Request) -> str:
    """The API key of a request: `Authorization: Bearer`, or `x-api-key` as clients of the Messages API send it."""
    authorization = request.headers.get("Authorization")
    if authorization is not None:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return secret.strip()
    return request.headers.get("x-api-key", "")
