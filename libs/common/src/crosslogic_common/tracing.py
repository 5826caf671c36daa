"""OpenTelemetry traces: off unless an exporter is configured."""

import contextlib
import os
from collections.abc import Iterator

from opentelemetry import trace

# The exporter's own ten seconds would be added to every shutdown while the collector is away.
_EXPORT_TIMEOUT_S = 2.0


@contextlib.contextmanager
def tracing(service: str) -> Iterator[trace.Tracer | None]:
    """A tracer while OTEL_EXPORTER_OTLP_ENDPOINT is set (its other OTEL_* variables apply), else None.

    A collector that is away costs spans and at most a few seconds at the end of the process.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield None
        return
    # Half a second of imports and 15 MB that a process without an exporter never pays.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: f"crosslogic-{service}"}))
    timeout_s = float(os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT", _EXPORT_TIMEOUT_S))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout_s)))
    try:
        yield provider.get_tracer("crosslogic")
    finally:
        provider.shutdown()
