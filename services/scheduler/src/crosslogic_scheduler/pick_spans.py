"""Spans of picks whose request is traced; made after they were answered, so that a pick without one pays nothing."""

import time
from collections.abc import Sequence

from opentelemetry import trace

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic_common.errors import CodedError
from crosslogic_common.tracing import parent
from crosslogic_scheduler.domain import Picked


def note_picks(
    tracer: trace.Tracer, requests: Sequence[pb.PickRequest], answers: Sequence[Picked | CodedError], elapsed_s: float
) -> None:
    """One span for each traced pick of a message that took `elapsed_s` and was answered just now."""
    for request, answer in zip(requests, answers, strict=True):
        above = parent(request.traceparent) if request.traceparent else None
        if above is None:
            continue
        end_ns = time.time_ns()
        span = tracer.start_span(
            "decide",
            context=above,
            kind=trace.SpanKind.SERVER,
            start_time=end_ns - round(elapsed_s * 1e9),
            attributes={"crosslogic.picks_in_message": len(requests)},
        )
        if isinstance(answer, CodedError):
            span.set_status(trace.StatusCode.ERROR, answer.code.value)
        else:
            span.set_attribute("crosslogic.node", answer[0].id)
        span.end(end_ns)
