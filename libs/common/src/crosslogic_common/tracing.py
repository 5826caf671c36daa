"""OpenTelemetry traces: off unless an exporter is configured.

Whoever begins a trace decides whether it is sampled; everybody else goes by that (`traceparent`, W3C Trace Context).
Calls on batched streams carry it in their frames, and only where a request is sampled.
"""

import contextlib
import os
import re
from collections.abc import Iterator

from opentelemetry import trace
from opentelemetry.context import Context

# The exporter's own ten seconds would be added to every shutdown while the collector is away.
_EXPORT_TIMEOUT_S = 2.0
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_SAMPLED = 1


@contextlib.contextmanager
def tracing(service: str, *, begins: bool = False) -> Iterator[trace.Tracer | None]:
    """A tracer while OTEL_EXPORTER_OTLP_ENDPOINT is set (its other OTEL_* variables apply), else None.

    `begins`: spans without a parent begin traces, so whoever makes one decides; otherwise they are not sampled. A
    collector that is away costs spans and at most a few seconds at the end of the process.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield None
        return
    # Half a second of imports and 15 MB that a process without an exporter never pays.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased  # noqa: PLC0415

    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: f"crosslogic-{service}"}),
        sampler=ParentBased(ALWAYS_ON if begins else ALWAYS_OFF),
    )
    timeout_s = float(os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT", _EXPORT_TIMEOUT_S))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout_s)))
    try:
        yield provider.get_tracer("crosslogic")
    finally:
        provider.shutdown()


def traceparent_of(span: trace.Span) -> str:
    """The span as a `traceparent` that asks whoever gets it to record theirs too."""
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-01"


def is_sampled(traceparent: str) -> bool:
    """Whether it is well-formed and asks for spans."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return found is not None and bool(int(found[3], 16) & _SAMPLED) and _is_valid(found)


def parent(traceparent: str) -> Context | None:
    """The context of spans below it, which are recorded. None: it is malformed."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not _is_valid(found):
        return None
    remote = trace.SpanContext(
        trace_id=int(found[1], 16),
        span_id=int(found[2], 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(_SAMPLED),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), Context())


def _is_valid(found: re.Match[str]) -> bool:
    """Ids of zeros are none."""
    return int(found[1], 16) != 0 and int(found[2], 16) != 0
