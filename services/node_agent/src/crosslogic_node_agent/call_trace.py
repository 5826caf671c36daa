"""The spans of a call whose request is traced: the agent's own, and below it the engine's."""

import time

from opentelemetry import trace

from crosslogic_common.tracing import parent, traceparent_of
from crosslogic_node_agent.domain import Ending, TokenCount


class CallTrace:
    """Two spans, begun with the call."""

    def __init__(self, tracer: trace.Tracer, relay: trace.Span) -> None:
        self._relay = relay
        self._engine = tracer.start_span("engine", context=trace.set_span_in_context(relay), kind=trace.SpanKind.CLIENT)
        self._began_ns = time.time_ns()

    @property
    def engine_traceparent(self) -> str:
        """What the engine is told."""
        return traceparent_of(self._engine)

    def end(self, count: TokenCount, ending: Ending, first_byte_s: float | None) -> None:
        """The call ended; `first_byte_s` after its start the engine's first byte came, if one did."""
        if first_byte_s is not None:
            self._engine.add_event("first byte", timestamp=self._began_ns + round(first_byte_s * 1e9))
        self._engine.set_attributes(
            {
                "gen_ai.usage.input_tokens": count.prompt_tokens,
                "gen_ai.usage.output_tokens": count.completion_tokens,
            }
        )
        for span in (self._engine, self._relay):
            span.set_attribute("crosslogic.ending", str(ending.value))
            if ending not in (Ending.SUCCEEDED, Ending.CLIENT_DISCONNECTED):
                span.set_status(trace.StatusCode.ERROR, str(ending.value))
            span.end()


def begin_call(tracer: trace.Tracer, traceparent: str) -> CallTrace | None:
    """The spans of a call. None: its `traceparent` is malformed."""
    above = parent(traceparent)
    if above is None:
        return None
    return CallTrace(tracer, tracer.start_span("relay", context=above, kind=trace.SpanKind.SERVER))
