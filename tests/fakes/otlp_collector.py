"""A collector of OpenTelemetry traces for tests: keeps every span that it is sent."""

import threading
from concurrent import futures
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc


@dataclass(frozen=True)
class SeenSpan:
    """A span, its ids in hex."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    begin_ns: int
    end_ns: int
    failed: bool


class Collector(rpc.TraceServiceServicer):
    """`with Collector() as collector:`; `collector.endpoint` is for OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[SeenSpan] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        rpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(1).wait()

    @property
    def settings(self) -> dict[str, str]:
        """For each process that is to send its spans here, at once."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def spans(self, trace_id: str = "") -> list[SeenSpan]:
        """All, or those of one trace."""
        with self._lock:
            return [span for span in self._spans if not trace_id or span.trace_id == trace_id]

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:
        with self._lock:
            for resource in request.resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self._spans.append(_seen(names["service.name"], span))
        return pb.ExportTraceServiceResponse()


def _seen(service: str, span: Any) -> SeenSpan:
    values = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
    return SeenSpan(
        service=service.removeprefix("crosslogic-"),
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=values,
        begin_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        failed=span.status.code == 2,
    )
