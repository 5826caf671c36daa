"""OpenTelemetry traces: off unless an exporter is configured."""

import contextlib
import os
from collections.abc import Iterator

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


@contextlib.contextmanager
def tracing(service: str) -> Iterator[trace.Tracer | None]:
    """A tracer while OTEL_EXPORTER_OTLP_ENDPOINT is set (its other OTEL_* variables apply), else None."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield None
        return
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: f"crosslogic-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield provider.get_tracer("crosslogic")
    finally:
        provider.shutdown()
