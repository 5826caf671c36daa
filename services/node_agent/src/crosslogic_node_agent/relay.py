"""What all streams share: the engine's connections, how many calls may run, and what becomes of a call that ended."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from opentelemetry import trace

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.tracing import is_sampled
from crosslogic_node_agent.call_trace import CallTrace, begin_call
from crosslogic_node_agent.dialect import Dialect, VllmDialect
from crosslogic_node_agent.domain import Ending, TokenCount
from crosslogic_node_agent.engine_connection import EnginePool
from crosslogic_node_agent.engine_request import EngineRequest, Templates
from crosslogic_node_agent.metrics import AgentMetrics
from crosslogic_node_agent.ports import ModelNames, Witnesses
from crosslogic_node_agent.relay_call import RelayCall


class Relay:
    """Makes calls and closes their books."""

    def __init__(
        self,
        *,
        pool: EnginePool,
        models: ModelNames,
        templates: Templates | None = None,
        dialect: Dialect | None = None,
        witnesses: Witnesses,
        metrics: AgentMetrics,
        max_calls: int,
        org_id: str = "",
        tracer: trace.Tracer | None = None,
    ) -> None:
        """Without `templates` the engine itself answers whole what is wanted whole. `dialect` None: vLLM's.

        At most `max_calls` run at a time, over all streams. `org_id` is the only organisation that this node's
        certificate lets it serve; empty: any.
        """
        self._pool = pool
        self._models = models
        self._dialect = dialect or VllmDialect(templates)
        self._witnesses = witnesses
        self._metrics = metrics
        self._max_calls = max_calls
        self._org_id = org_id
        self._tracer = tracer
        self._running: set[RelayCall] = set()
        metrics.follow_running(lambda: len(self._running))
        self._refusing = False

    @property
    def running(self) -> int:
        """Calls under way."""
        return len(self._running)

    def call(
        self,
        call_id: int,
        request: pb.RelayOpen,
        *,
        on_ready: Callable[[RelayCall], None],
        on_ended: Callable[[RelayCall, TokenCount, Ending], None],
    ) -> RelayCall:
        """A call, not started yet; `on_ended` must come back to `ended`.

        Raises INVALID_ARGUMENT, REQUEST_TOO_LARGE, MODEL_NOT_FOUND, OVERLOADED, NODE_DRAINING while leaving, and
        PERMISSION_DENIED for another organisation's request.
        """
        if self._org_id and request.org_id != self._org_id:
            raise CodedError(ErrorCode.PERMISSION_DENIED, private="a request of another organisation")
        if self._refusing:
            raise CodedError(ErrorCode.NODE_DRAINING, private="the node is leaving")
        if len(self._running) >= self._max_calls:
            raise CodedError(ErrorCode.OVERLOADED, private=f"{len(self._running)} calls run", retry_after_s=1.0)
        engine_model = self._models.engine_model(request.model)
        if engine_model is None:
            raise CodedError(ErrorCode.MODEL_NOT_FOUND)
        engine_request = self._dialect.request(request, engine_model)
        found: CallTrace | None = None
        if request.traceparent:
            engine_request, found = self._traced(request.traceparent, engine_request)
        call = RelayCall(
            call_id=call_id,
            request=request,
            engine_request=engine_request,
            dialect=self._dialect,
            pool=self._pool,
            on_ready=on_ready,
            on_ended=on_ended,
        )
        call.trace = found
        self._running.add(call)
        return call

    def _traced(self, traceparent: str, request: EngineRequest) -> tuple[EngineRequest, CallTrace | None]:
        """The engine is told the span that it works for: ours, or without a collector here the gateway's."""
        found = None if self._tracer is None else begin_call(self._tracer, traceparent)
        told = traceparent if found is None else found.engine_traceparent
        return replace(request, traceparent=told if is_sampled(told) else ""), found

    def ended(self, call: RelayCall, count: TokenCount, ending: Ending) -> None:
        """A call ended: its count goes to the witness spool."""
        self._running.discard(call)
        duration_s = asyncio.get_running_loop().time() - call.started_at
        self._metrics.ended(ending, count, duration_s, call.first_byte_s)
        if call.trace is not None:
            call.trace.end(count, ending, call.first_byte_s)
        if call.sealed_context:
            self._witnesses.record(call.sealed_context, count, ending, round(duration_s * 1e6))

    async def drain(self, grace_s: float, accept_s: float) -> None:
        """Takes new calls for `accept_s` more, then none; returns when none runs or `grace_s` is over.

        The fleet learns of the drain in milliseconds; until then a refusal would cost a client a second attempt.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() - started < grace_s:
            if loop.time() - started >= accept_s:
                self._refusing = True
                if not self._running:
                    break
            await asyncio.sleep(0.02)
        self._refusing = True
        for call in list(self._running):
            # The node is well but goes: a gateway takes the call up elsewhere from what it has relayed.
            call.abandon(CodedError(ErrorCode.NODE_DRAINING, private="the node leaves"))
