"""OpenTelemetry traces: off unless an exporter is configured."""

import contextlib
import os
from collections.abc import Iterator

from opentelemetry import trace


@contextlib.contextmanager
def tracing(service: str) -> Iterator[trace.Tracer | None]:
    """A tracer while OTEL_EXPORTER_OTLP_ENDPOINT is set (its other OTEL_* variables apply), else None."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield None
        return
    # Half a second of imports and 15 MB that a process without an exporter never pays.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: f"crosslogic-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield provider.get_tracer("crosslogic")
    finally:
        provider.shutdown()
