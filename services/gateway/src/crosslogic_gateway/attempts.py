"""Running an admitted request on nodes: attempts, the answer to the client, and the usage record of each."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from aiohttp import HttpVersion11, web

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.errors import CodedError, ErrorCode, to_openai_body
from crosslogic_common.logs import get_logger
from crosslogic_common.seal import Sealer
from crosslogic_common.wire import repeated_messages
from crosslogic_gateway.admission.ticket import Ticket
from crosslogic_gateway.answers import Answer, StreamedAnswer, WholeAnswer
from crosslogic_gateway.body import InferenceBody
from crosslogic_gateway.domain import Model, Principal, Route
from crosslogic_gateway.engine_errors import client_error, error_event
from crosslogic_gateway.http import RECEIVED_AT, REQUEST_ID, SHOWN_REQUEST_ID, answer_headers, whole_response
from crosslogic_gateway.picker import Picker
from crosslogic_gateway.prices import Prices, Rate
from crosslogic_gateway.relay import NodeLink, RelayPool, Timeouts
from crosslogic_gateway.usage_outbox import UsageOutbox

OutcomeValue: TypeAlias = "common_pb.Outcome.ValueType"

MAX_ATTEMPTS = 3
CANCEL_SETTLE_S = 5.0
"""How long a node may take to say what was generated for a client that went away."""
_CHARGED = frozenset({common_pb.OUTCOME_SUCCEEDED, common_pb.OUTCOME_CLIENT_DISCONNECTED})
"""What the accountant charges for: all else costs nothing, and gives back everything that was held."""
_RETRIED = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.ENGINE_UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class Api:
    """One inference API: its path and how the engine knows it."""

    path: str
    engine_api: int


@dataclass(frozen=True, slots=True)
class Job:
    """A request that may run: what every attempt at it needs."""

    request: web.Request
    api: Api
    principal: Principal
    model: Model
    body: InferenceBody
    raw: bytes
    """The client's body, as sent."""
    ticket: Ticket
    """What admission holds for it; settled where its usage record is made."""


@dataclass(slots=True)
class _Call:
    """One attempt on one node."""

    job: Job
    context: bytes
    """The serialised RequestContext."""
    rate: Rate
    route: Route
    link: NodeLink
    call_id: int
    answer: Answer
    received_at: float
    http_status: int = 0
    first_byte_at: float = 0.0
    recorded: bool = field(default=False)


class Attempts:
    """Runs jobs on nodes."""

    def __init__(
        self,
        *,
        picker: Picker,
        prices: Prices,
        relays: RelayPool,
        usage: UsageOutbox,
        sealer: Sealer,
        timeouts: Timeouts,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """`now_us` is the wall clock in microseconds since the epoch."""
        self._picker = picker
        self._prices = prices
        self._relays = relays
        self._usage = usage
        self._sealer = sealer
        self._first_byte_timeout_ms = round(timeouts.first_byte_s * 1000)
        self._idle_timeout_ms = round(timeouts.idle_s * 1000)
        self._now_us = now_us
        self._settling: set[asyncio.Task[None]] = set()
        self._log = get_logger(__name__)

    async def run(self, job: Job) -> web.StreamResponse:
        """Answers the request. Raises CodedError for what is refused or fails before the first byte."""
        call = await self._start(job)
        try:
            head = call.answer.head.result()
            if head.status >= 400:  # HTTP's own boundary  # noqa: PLR2004
                await call.answer.wait_ended()
                raise client_error(head.status, _gathered(call.answer))
            if job.body.stream:
                return await self._stream(job.request, call, head)
            return await self._whole(job.request, call, head)
        except asyncio.CancelledError:
            self._client_left(call)
            raise

    async def drain(self, grace_s: float) -> None:
        """Waits until requests whose client left are settled."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=grace_s)

    async def _start(self, job: Job) -> _Call:
        """Opens the call on a node and returns once the engine has answered; tries others while nothing was sent."""
        excluded: tuple[str, ...] = ()
        body, model, principal = job.body, job.model, job.principal
        wanted = (body.max_tokens or 0) * body.choices * body.inputs
        # The price is the one in force now, however many attempts it takes.
        admitted_us = self._now_us()
        while True:
            route = await self._picker.pick(
                model=model.name,
                org_id=principal.org_id,
                region=principal.region,
                estimated_tokens=wanted + len(job.raw) // 4,
                excluded=excluded,
            )
            rate = self._prices.rate(
                model=model, region=route.region, plan=principal.plan, api=job.api.path, now_us=admitted_us
            )
            context = accountant_pb.RequestContext(
                request_id=job.request[REQUEST_ID],
                org_id=principal.org_id,
                environment_id=principal.environment_id,
                api_key_id=principal.api_key_id,
                model=model.name,
                start_time_unix_us=self._now_us(),
                prompt_price_picodollars=rate.prompt,
                completion_price_picodollars=rate.completion,
                cached_prompt_price_picodollars=rate.cached_prompt,
                price_version=rate.version,
                plan=principal.plan,
                api=job.api.path,
                stream=body.stream,
                region=route.region,
                node_id=route.node_id,
                max_total_tokens=min(model.context_length * body.choices * body.inputs, 2**31 - 1),
            ).SerializeToString()
            try:
                return await self._attempt(job, route, context, rate)
            except CodedError as error:
                excluded = (*excluded, route.node_id)
                if error.code not in _RETRIED or len(excluded) >= MAX_ATTEMPTS:
                    raise
                self._log.warning("attempt failed", node_id=route.node_id, code=error.code, reason=error.private)

    async def _attempt(self, job: Job, route: Route, context: bytes, rate: Rate) -> _Call:
        body = job.body
        answer: Answer = StreamedAnswer() if body.stream else WholeAnswer()
        link = self._relays.link(route)
        call_id = link.open(
            agent_pb.RelayOpen(
                api=job.api.engine_api,  # type: ignore[arg-type]  # the enum's values are plain numbers
                body=job.raw,
                model=body.model,
                stream=body.stream,
                include_usage=body.include_usage,
                continuous_usage=body.continuous_usage,
                return_token_ids=body.return_token_ids,
                request_id=job.request[REQUEST_ID],
                cache_salt=job.principal.cache_salt,
                sealed_context=self._sealer.seal(context, aad=route.node_id.encode()),
                first_byte_timeout_ms=self._first_byte_timeout_ms,
                idle_timeout_ms=self._idle_timeout_ms,
            ),
            answer,
        )
        call = _Call(job, context, rate, route, link, call_id, answer, job.request[RECEIVED_AT])
        try:
            await answer.head
        except asyncio.CancelledError:
            self._client_left(call)
            raise
        return call

    async def _whole(self, request: web.Request, call: _Call, head: agent_pb.RelayHead) -> web.StreamResponse:
        answer = call.answer
        assert isinstance(answer, WholeAnswer)  # noqa: S101  # chosen by the same flag
        if not answer.ended:
            await answer.wait_ended()
        call.http_status = head.status
        if answer.error is not None:
            self._record(call, _outcome_of(answer.error))
            raise answer.error
        call.first_byte_at = asyncio.get_running_loop().time()
        self._record(call, common_pb.OUTCOME_SUCCEEDED)
        return whole_response(request, status=head.status, content_type=head.content_type, body=answer.body())

    async def _stream(self, request: web.Request, call: _Call, head: agent_pb.RelayHead) -> web.StreamResponse:
        answer = call.answer
        assert isinstance(answer, StreamedAnswer)  # noqa: S101  # chosen by the same flag
        headers = answer_headers(request, head.content_type)
        headers["Cache-Control"] = "no-cache"
        headers["X-Accel-Buffering"] = "no"
        response = web.StreamResponse(status=head.status, headers=headers)
        chunked = request.version >= HttpVersion11
        if chunked:
            response.enable_chunked_encoding()
        transport = request.transport
        if transport is None:
            raise asyncio.CancelledError
        await response.prepare(request)
        call.http_status = head.status
        answer.attach(transport, chunked=chunked)
        try:
            if not answer.ended:
                await answer.wait_ended()
        finally:
            call.first_byte_at = answer.first_byte_at
            answer.detach()
        if answer.error is None:
            self._record(call, common_pb.OUTCOME_SUCCEEDED)
            return response
        self._record(call, _outcome_of(answer.error))
        await response.write(error_event(answer.error, request[SHOWN_REQUEST_ID], to_openai_body))
        response.force_close()
        return response

    def _client_left(self, call: _Call) -> None:
        """Stops the engine at once; what it had generated by then is recorded when the node has said how much."""
        if call.recorded:
            return
        if call.answer.head.cancelled():
            # The handler was waiting for it. What the engine answers still decides what is recorded.
            call.answer.head = asyncio.get_running_loop().create_future()
        call.link.cancel(call.call_id)
        call.job.ticket.keep()
        task = asyncio.create_task(self._settle_abandoned(call), name="settle abandoned")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle_abandoned(self, call: _Call) -> None:
        try:
            async with asyncio.timeout(CANCEL_SETTLE_S):
                await call.answer.wait_ended()
        except TimeoutError:
            self._log.warning("node did not say what was generated", node_id=call.route.node_id)
        head = call.answer.head
        refused = head.done() and head.exception() is None and head.result().status >= 400  # noqa: PLR2004
        if not refused:
            self._record(call, common_pb.OUTCOME_CLIENT_DISCONNECTED)
        call.job.ticket.release()

    def _record(self, call: _Call, outcome: OutcomeValue) -> None:
        if call.recorded:
            return
        call.recorded = True
        now = asyncio.get_running_loop().time()
        first_byte_us = round((call.first_byte_at - call.received_at) * 1e6) if call.first_byte_at else 0
        usage = call.answer.usage()
        rest = accountant_pb.UsageRecord(
            usage=usage,
            outcome=outcome,
            latency_us=round((now - call.received_at) * 1e6),
            time_to_first_token_us=first_byte_us,
            http_status=call.http_status,
        )
        # UsageRecord.context is field 1: the sealed bytes are used again rather than built again.
        self._usage.record(repeated_messages([call.context]) + rest.SerializeToString())
        if outcome in _CHARGED:
            call.job.ticket.settle(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cost_picodollars=call.rate.cost_picodollars(
                    usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens
                ),
            )


def _gathered(answer: Answer) -> bytes:
    """The body of an answer that is not passed on."""
    return answer.body() if isinstance(answer, WholeAnswer) else b"".join(answer.detach())  # type: ignore[attr-defined]


def _outcome_of(error: CodedError) -> OutcomeValue:
    return common_pb.OUTCOME_TIMED_OUT if error.code == ErrorCode.TIMEOUT else common_pb.OUTCOME_FAILED
