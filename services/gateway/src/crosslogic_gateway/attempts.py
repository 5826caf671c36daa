"""Running an admitted request on nodes: one attempt after the other, and the answer to the client."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from aiohttp import HttpVersion11, web

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.errors import CodedError, ErrorCode, to_openai_body
from crosslogic_common.logs import get_logger
from crosslogic_common.seal import Sealer
from crosslogic_gateway.affinity import Hinter
from crosslogic_gateway.answers import Answer, StreamedAnswer, WholeAnswer
from crosslogic_gateway.cold_starts import ColdStarts
from crosslogic_gateway.domain import Route
from crosslogic_gateway.engine_errors import client_error, error_event
from crosslogic_gateway.failover import (
    ANOTHER_EVERY_S,
    BACK_WITHIN_S,
    MAX_ATTEMPTS,
    MAX_NODES,
    MAX_UNREACHED,
    PROGRESS_TOKENS,
    RETRY_AFTER_S,
    FailedAttempt,
    FailoverCounts,
    FailoverPolicy,
    Failure,
    RetryBudget,
    broken,
    given_up,
    refused,
    unreached,
)
from crosslogic_gateway.hedging import Hedging
from crosslogic_gateway.http import (
    RECEIVED_AT,
    REQUEST_ID,
    SENT_BYTES,
    SHOWN_REQUEST_ID,
    STREAM,
    answer_headers,
    mark_region_failover,
    whole_response,
)
from crosslogic_gateway.jobs import Api, Attempt, Job, Run
from crosslogic_gateway.picker import Picker
from crosslogic_gateway.prices import Prices, Rate
from crosslogic_gateway.relay import RelayPool, Timeouts
from crosslogic_gateway.serving_metrics import ServingMetrics
from crosslogic_gateway.settlement import Settlement, outcome_of
from crosslogic_gateway.usage_outbox import UsageOutbox

__all__ = ["Api", "Attempts", "Job"]


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
        serving: ServingMetrics,
        policy: FailoverPolicy | None = None,
        hedged_models: frozenset[str] = frozenset(),
        cold_starts: ColdStarts | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """`hedged_models` are names of the catalogue, `*` for all; `now_us` is the wall clock in microseconds."""
        self._picker = picker
        self._prices = prices
        self._relays = relays
        self._sealer = sealer
        self._settlement = Settlement(usage=usage, serving=serving)
        self._serving = serving
        self._timeouts = timeouts
        self._hinter = Hinter()
        self._first_byte_timeout_ms = round(timeouts.first_byte_s * 1000)
        self._idle_timeout_ms = round(timeouts.idle_s * 1000)
        self._whole_timeout_ms = round(timeouts.whole_s * 1000)
        self._policy = policy or FailoverPolicy()
        self._cold_starts = cold_starts
        self._loop = asyncio.get_running_loop()
        self._budget = RetryBudget(self._policy, began_at=self._loop.time())
        self._hedging = Hedging(hedged_models)
        self._now_us = now_us
        self.counts = FailoverCounts(self._hedging)
        self._log = get_logger(__name__)

    async def run(self, job: Job) -> web.StreamResponse:
        """Answers the request. Raises CodedError for what is refused or fails before the first byte."""
        received_at = job.request[RECEIVED_AT]
        run = Run(job, received_at, self._now_us(), received_at + self._policy.window_s, undecided=job.decide)
        self._budget.asked(received_at)
        try:
            attempt = await self._reach(run)
            return await (self._stream(run, attempt) if job.body.stream else self._whole(run, attempt))
        except asyncio.CancelledError:
            self._settlement.client_left(run)
            raise

    async def drain(self, grace_s: float) -> None:
        """Waits until requests whose client left are settled."""
        await self._settlement.drain(grace_s)

    # One node after the other, until one answers.

    async def _reach(self, run: Run) -> Attempt:
        """Asks nodes until one answers. Raises what the last one that may be asked said."""
        unreached: list[Route] = []
        refused: CodedError | None = None
        waits = 0
        while True:
            try:
                route = await self._pick(run, unreached)
            except CodedError as error:
                await self._decided(run)
                if not waits:
                    self._serving.failed(run.job.model.name, "no_node")
                if error.code is not ErrorCode.NO_CAPACITY or waits >= MAX_ATTEMPTS:
                    raise
                waits += 1
                route = await self._unpicked(run, unreached, refused, error)
            try:
                attempt = self._open(run, route)
                await self._decided(run)
                if len(run.tried) == 1 and run.job.body.stream and self._hedging.wanted(run.job.model.name):
                    return await self._hedged(run, attempt)
                await self._head(run, attempt)
                return attempt
            except FailedAttempt as failed:
                await self._decided(run)
                self._may_go_on(run, route, failed)
                if failed.failure is Failure.REFUSED:
                    refused = failed.error
                if failed.failure is Failure.UNREACHED:
                    if len(unreached) >= MAX_UNREACHED:
                        raise failed.error from None
                    unreached.append(route)

    async def _decided(self, run: Run) -> None:
        """Returns once the request is let in; a node may have it already. Raises its refusal: then the node is told."""
        decide, run.undecided = run.undecided, None
        if decide is None:
            return
        try:
            await decide()
        except BaseException:
            if run.attempt is not None:
                run.attempt.link.supersede(run.attempt.call_id)
                # Should the node be done already, its witness would bill what nobody was let in for.
                self._settlement.record(run, common_pb.OUTCOME_FAILED)
            raise

    async def _unpicked(self, run: Run, unreached: list[Route], refused: CodedError | None, error: CodedError) -> Route:
        """A node where none could be picked. Raises `error`, or what a node said that refused: it knows when it can."""
        if unreached:
            route = await self._first_back(unreached, error)
            unreached.remove(route)
            return route
        if refused is not None:
            raise refused
        return await (self._another(run, error) if run.tried else self._cold_start(run, error))

    async def _another(self, run: Run, error: CodedError) -> Route:
        """A node in place of one that was lost, where none could be picked at once. Raises `error` if none is soon."""
        until = min(self._loop.time() + self._policy.another_within_s, run.deadline)
        while self._loop.time() < until:
            await asyncio.sleep(ANOTHER_EVERY_S)
            try:
                return await self._pick(run, [])
            except CodedError as again:
                if again.code is not ErrorCode.NO_CAPACITY:
                    raise
        raise error

    async def _cold_start(self, run: Run, error: CodedError) -> Route:
        """A node that is launched for the request. Raises `error` where there is none in time."""
        if self._cold_starts is None:
            raise error
        job = run.job
        route = await self._cold_starts.wait(
            model=job.model.name, region=job.principal.region, refused=error, pick=lambda: self._pick(run, [])
        )
        # What it waited is no time that a node took.
        run.deadline = self._loop.time() + self._policy.window_s
        return route

    async def _first_back(self, unreached: list[Route], error: CodedError) -> Route:
        """The first of nodes that could not be reached to be so again: the scheduler knows them to live.

        Raises `error` when none is soon.
        """
        waits = {asyncio.create_task(self._relays.link(route).back()): route for route in unreached}
        try:
            done, _ = await asyncio.wait(waits, timeout=BACK_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not done:
            raise error
        return waits[done.pop()]

    async def _pick(self, run: Run, unreached: list[Route]) -> Route:
        job = run.job
        body, principal = job.body, job.principal
        wanted = (body.max_tokens or 0) * body.choices * body.inputs
        try:
            return await self._picker.pick(
                model=job.model.name,
                org_id=principal.org_id,
                region=principal.region,
                estimated_tokens=wanted + len(job.raw) // 4,
                prompt_tokens=len(job.raw) // 4,
                excluded=(*run.tried, *(route.node_id for route in unreached)) if unreached else run.tried,
                hints=self._hinter.hints(job.request.headers, principal, job.model, job.raw, reserved=job.reserved),
                # Another version would go on with other tokens.
                version=run.attempt.route.version if run.relayed is not None and run.attempt is not None else None,
            )
        except CodedError as error:
            if error.code is ErrorCode.NO_CAPACITY and error.retry_after_s is None:
                error.retry_after_s = RETRY_AFTER_S
            raise

    def _open(self, run: Run, route: Route) -> Attempt:
        """Sends the request to the node. Raises FailedAttempt."""
        job, body = run.job, run.job.body
        context, rate = self._context(run, route)
        answer: Answer = StreamedAnswer(run.relayed) if body.stream else WholeAnswer()
        link = self._relays.link(route)
        opening = agent_pb.RelayOpen(
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
            whole_timeout_ms=0 if body.stream else self._whole_timeout_ms,
            # A node learns no tenant's name but that of its own organisation.
            org_id=job.principal.org_id if route.org_id else "",
            resume=None if run.relayed is None else run.relayed.resume(job.model.context_length),
            max_tokens=job.ticket.completion_cap,
        )
        try:
            call_id = link.open(opening, answer)
        except CodedError as error:
            raise unreached(error) from None
        attempt = Attempt(context, rate, route, link, call_id, answer, self._loop.time())
        run.attempt = attempt
        run.tried = (*run.tried, route.node_id)
        self.counts.attempts += 1
        self._serving.sent(job.model.name, route.node_id)
        return attempt

    def _context(self, run: Run, route: Route) -> tuple[bytes, Rate]:
        """Who is served and at which price, for the record and, sealed, for the node's witness."""
        job = run.job
        body, model, principal = job.body, job.model, job.principal
        rate = self._prices.rate(
            model=model, region=route.region, plan=principal.plan, api=job.api.path, now_us=run.admitted_us
        )
        context = accountant_pb.RequestContext(
            request_id=job.request[REQUEST_ID],
            org_id=principal.org_id,
            environment_id=principal.environment_id,
            api_key_id=principal.api_key_id,
            model=model.name,
            start_time_unix_us=run.admitted_us,
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
        return context, rate

    async def _head(self, run: Run, attempt: Attempt) -> None:
        """Returns once the engine has answered. Raises FailedAttempt with what it or its node said instead."""
        answer = attempt.answer
        try:
            if len(run.tried) == 1 or not run.job.body.stream:
                # The head of a whole answer comes with its end: that the node says it goes on is enough.
                await answer.head
            else:
                async with asyncio.timeout_at(run.deadline):
                    await asyncio.shield(answer.head)
        except CodedError as error:
            raise broken(error, sent=False, silent=answer.silent) from None
        except TimeoutError:
            late = CodedError(ErrorCode.TIMEOUT, private="no time is left for another node")
            attempt.link.give_up(attempt.call_id, answer, late)
            raise broken(late, sent=False, silent=False) from None
        status = answer.head.result().status
        if status >= 400:  # HTTP's own boundary  # noqa: PLR2004
            await answer.wait_ended()
            raise refused(client_error(status, _gathered(answer)), status)

    async def _hedged(self, run: Run, first: Attempt) -> Attempt:
        """The attempt that answers first: of one node, or of two when the first takes unusually long.

        Raises FailedAttempt when neither answers.
        """
        heads = {asyncio.create_task(self._head(run, first)): first}
        winner: Attempt | None = first  # also the one whose count is asked for when the client leaves
        try:
            done, _ = await asyncio.wait(heads, timeout=self._hedging.delay_s(run.job.model.name))
            if not done and self._budget.take(self._loop.time()):
                # When no other node takes it, the first is waited for.
                with contextlib.suppress(CodedError, FailedAttempt):
                    second = self._open(run, await self._pick(run, []))
                    heads[asyncio.create_task(self._head(run, second))] = second
                    self._hedging.asked += 1
            winner = None
            winner = await self._first_head(heads)
            self._hedging.note(run.job.model.name, self._loop.time() - winner.opened_at)
            self._hedging.won += winner is not first
        except asyncio.CancelledError:
            winner = first
            raise
        finally:
            for head, attempt in heads.items():
                head.cancel()
                if attempt is not winner:
                    attempt.link.supersede(attempt.call_id)
            run.attempt = winner or run.attempt
        return winner

    async def _first_head(self, heads: dict[asyncio.Task[None], Attempt]) -> Attempt:
        left = set(heads)
        while True:
            done, _ = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for head in done:
                left.discard(head)
                try:
                    head.result()
                except FailedAttempt as failed:
                    if failed.blames_node:
                        self._picker.reports.failed(heads[head].route.node_id)
                    if not left:
                        raise FailedAttempt(failed.error, failed.failure, blames_node=False) from None
                else:
                    return heads[head]

    def _may_go_on(self, run: Run, route: Route, failed: FailedAttempt) -> None:
        """Returns when another node may be asked. Raises the attempt's error when not."""
        error, failure = failed.error, failed.failure
        if failure is not Failure.FINAL:
            self._serving.failed(run.job.model.name, failure.name.lower())
        if failed.blames_node:
            self._picker.reports.failed(route.node_id)
        now = self._loop.time()
        if error.retry_after_s is None and failure in (Failure.UNREACHED, Failure.LOST):
            error.retry_after_s = RETRY_AFTER_S
        if (
            failure is Failure.FINAL
            or (failure is not Failure.UNREACHED and not self._another_may_help(run))
            or now >= run.deadline
            or (failure is Failure.REFUSED and not self._budget_allows(now))
        ):
            raise error
        self.counts.failovers += 1
        self._log.warning(
            "attempt failed",
            request_id=run.job.request[REQUEST_ID],
            node_id=route.node_id,
            code=error.code,
            reason=error.private,
        )

    @staticmethod
    def _another_may_help(run: Run) -> bool:
        """Counts an attempt that failed. A request that ends whatever node it is on must not take the fleet along."""
        run.fruitless += 1
        return run.fruitless < MAX_ATTEMPTS and len(run.tried) < MAX_NODES

    def _budget_allows(self, now: float) -> bool:
        allowed = self._budget.take(now)
        self.counts.denied += not allowed
        return allowed

    # The answer.

    async def _whole(self, run: Run, attempt: Attempt) -> web.StreamResponse:
        """Gathers the answer. One that breaks is asked for anew: its client has nothing of it."""
        request = run.job.request
        try:
            while True:
                answer = attempt.answer
                if not answer.ended:
                    await answer.wait_ended()
                run.http_status = answer.head.result().status
                if answer.error is None:
                    break
                self._may_go_on(run, attempt.route, broken(answer.error, sent=False, silent=answer.silent))
                attempt = await self._reach(run)
        except CodedError as error:
            self._settlement.record(run, outcome_of(error))
            raise
        assert isinstance(answer, WholeAnswer)  # noqa: S101  # chosen by the same flag
        head = answer.head.result()
        run.first_byte_at = self._loop.time()
        self._succeeded(run, attempt)
        if attempt.route.region_failover:
            mark_region_failover(request)
        return whole_response(request, status=head.status, content_type=head.content_type, body=answer.body())

    async def _stream(self, run: Run, attempt: Attempt) -> web.StreamResponse:
        """Writes the stream through; when its node is lost, the next one goes on where it broke off."""
        request = run.job.request
        head = attempt.answer.head.result()
        if attempt.route.region_failover:
            mark_region_failover(request)
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
        request[STREAM] = response
        run.http_status = head.status
        while True:
            answer = attempt.answer
            assert isinstance(answer, StreamedAnswer)  # noqa: S101  # chosen by the same flag
            answer.attach(transport, chunked=chunked)
            try:
                if not answer.ended:
                    await answer.wait_ended()
            finally:
                run.first_byte_at = run.first_byte_at or answer.first_byte_at
                request[SENT_BYTES] = request.get(SENT_BYTES, 0) + answer.sent_bytes
                answer.detach()
            if answer.error is None:
                self._succeeded(run, attempt)
                return response
            try:
                attempt = await self._go_on(run, attempt, answer, answer.error)
            except CodedError as error:
                self._settlement.record(run, outcome_of(error))
                shown_id = request[SHOWN_REQUEST_ID]
                await response.write(error_event(error, shown_id, to_openai_body, run.job.api.path))
                return response

    async def _go_on(self, run: Run, attempt: Attempt, answer: StreamedAnswer, error: CodedError) -> Attempt:
        """The attempt that goes on with a stream that broke. Raises what ends it."""
        before, run.relayed = run.relayed, answer.relayed()
        if run.relayed is not None and run.relayed.gained(before) >= PROGRESS_TOKENS:
            # It was not the stream that ended its node.
            run.fruitless = 0
        run.deadline = self._loop.time() + self._policy.window_s
        failed = given_up(error) if answer.given_up else broken(error, sent=True, silent=answer.silent)
        if run.relayed is None:
            failed = FailedAttempt(error, Failure.FINAL, blames_node=failed.blames_node)
        self._may_go_on(run, attempt.route, failed)
        attempt = await self._reach(run)
        run.resumed = True
        self.counts.resumed += 1
        return attempt

    def _succeeded(self, run: Run, attempt: Attempt) -> None:
        self._settlement.record(run, common_pb.OUTCOME_SUCCEEDED)
        first_byte_s = 0.0 if len(run.tried) > 1 else run.first_byte_at - attempt.opened_at
        self._picker.reports.succeeded(attempt.route.node_id, first_byte_s)


def _gathered(answer: Answer) -> bytes:
    """The body of an answer that is not passed on."""
    return answer.body() if isinstance(answer, WholeAnswer) else b"".join(answer.detach())  # type: ignore[attr-defined]
