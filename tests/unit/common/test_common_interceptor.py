"""Around every RPC, without a network: who is let through, and what is said of what was raised."""

import asyncio
import contextlib
from typing import Any

import grpc
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer
from structlog.testing import capture_logs

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.grpc_server import GrpcServer, StartError
from crosslogic_common.interceptor import RpcInterceptor
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import TlsFiles
from crosslogic_common.tracing import tracing
from tests.fakes.registry_server import JOIN_SERVICE, SERVICE, everybody_may

METHOD = "/x.Y/Z"


class Aborted(Exception):  # noqa: N818  # what abort raises
    """What the caller was told."""


class FakeContext:
    """An RPC from `uri` over `tls`."""

    def __init__(self, uri: str = "spiffe://crosslogic/service/gateway", tls: str = "TLSv1.3") -> None:
        self._auth = {"peer_uri": [uri.encode()] if uri else [], "ssl_tls_version": [tls.encode()] if tls else []}
        self.told: tuple[grpc.StatusCode, str] | None = None

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._auth

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        return (("x-request-id", "r" * 1000), ("x-bin", b"\xff"), trace)

    def time_remaining(self) -> float | None:
        return 1.0

    async def abort(self, code: grpc.StatusCode, details: str, _metadata: object) -> None:
        self.told = (code, details)
        raise Aborted


async def call(
    context: FakeContext, *, rule: frozenset[str], raises: Exception | None = None, tracer: Tracer | None = None
) -> Metrics:
    metrics = Metrics()
    interceptor = RpcInterceptor(rules={METHOD: rule}, metrics=metrics, tracer=tracer, stopping=asyncio.Event())

    async def behaviour(_request: Any, _context: Any) -> str:
        assert interceptor.running() == {METHOD: 1}
        assert structlog.contextvars.get_contextvars() == {"request_id": "r" * 128}
        if raises is not None:
            raise raises
        return "answer"

    async def found(_details: object) -> Any:
        return grpc.unary_unary_rpc_method_handler(behaviour)

    details: Any = type("Details", (), {"method": METHOD})()
    handler: Any = await interceptor.intercept_service(found, details)
    with contextlib.suppress(Aborted):
        assert await handler.unary_unary(None, context) == "answer"
    assert interceptor.running() == {}
    return metrics


@pytest.mark.parametrize(
    ("rule", "uri", "may"),
    [
        ({"service:gateway"}, "spiffe://crosslogic/service/gateway", True),
        ({"service:*"}, "spiffe://crosslogic/service/gateway", True),
        ({"certificate"}, "spiffe://crosslogic/service/gateway", True),
        ({"service:gateway"}, "spiffe://crosslogic/service/operator", False),
        ({"node"}, "spiffe://crosslogic/service/gateway", False),
        ({"node"}, "spiffe://crosslogic/org/shared/node/0197f0c0-0000-7000-8000-000000000001", True),
        ({"service:*"}, "spiffe://crosslogic/org/shared/node/0197f0c0-0000-7000-8000-000000000001", False),
        ({"certificate"}, "", False),
        ({"certificate"}, "https://elsewhere", False),
        (set(), "spiffe://crosslogic/service/gateway", False),
    ],
)
async def test_only_who_the_rule_names_gets_through(rule: set[str], uri: str, may: bool) -> None:
    context = FakeContext(uri)
    await call(context, rule=frozenset(rule))
    assert (context.told is None) is may
    assert may or (context.told is not None and context.told[0] is grpc.StatusCode.PERMISSION_DENIED)


@pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.1", ""])
async def test_nothing_older_than_tls_1_3_is_served_even_with_a_right_certificate(tls: str) -> None:
    context = FakeContext(tls=tls)
    await call(context, rule=frozenset({"service:gateway"}))
    assert context.told is not None
    assert context.told[0] is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (CodedError(ErrorCode.NOT_FOUND, private="x"), grpc.StatusCode.NOT_FOUND),
        (TimeoutError(), grpc.StatusCode.DEADLINE_EXCEEDED),
        (KeyError("secret"), grpc.StatusCode.INTERNAL),
        (ExceptionGroup("g", [ValueError(), CodedError(ErrorCode.OVERLOADED)]), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (
            ExceptionGroup("g", [ExceptionGroup("h", [CodedError(ErrorCode.CONFLICT)])]),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        (ExceptionGroup("g", [ValueError("secret")]), grpc.StatusCode.INTERNAL),
    ],
)
async def test_whatever_is_raised_the_caller_gets_one_clean_status_and_it_is_counted(
    raised: Exception, status: grpc.StatusCode
) -> None:
    context = FakeContext()
    with capture_logs() as logs:
        metrics = await call(context, rule=frozenset({"certificate"}), raises=raised)
    assert context.told is not None
    assert context.told[0] is status
    assert "secret" not in context.told[1]
    assert f'crosslogic_rpcs_total{{code="{status.name}",method="{METHOD}"}} 1.0' in metrics.text().decode()
    assert "secret" not in repr(raised) or any(entry["log_level"] == "error" for entry in logs)


@given(st.text(max_size=30))
def test_private_text_never_becomes_the_details(private: str) -> None:
    context = FakeContext()
    error = CodedError(ErrorCode.INTERNAL, private=f"<{private}>")
    asyncio.run(call(context, rule=frozenset({"certificate"}), raises=error))
    assert context.told is not None
    assert f"<{private}>" not in context.told[1]


async def test_span_of_an_rpc_belongs_to_its_callers_trace() -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    await call(FakeContext(), rule=frozenset({"certificate"}), tracer=provider.get_tracer("test"))
    (span,) = spans.get_finished_spans()
    assert span.name == METHOD
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    provider.shutdown()


def test_without_an_exporter_there_is_no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    with tracing("test") as tracer:
        assert tracer is None


def server(rules: dict[str, frozenset[str]], tmp_path: Any, *, client_certificates: bool = True) -> GrpcServer:
    return GrpcServer(
        listen="127.0.0.1:0",
        tls=TlsFiles(tmp_path, tmp_path, tmp_path),
        rules=rules,
        metrics=Metrics(),
        stopping=asyncio.Event(),
        client_certificates=client_certificates,
    )


def nothing(_server: object) -> None:
    """Registers nothing."""


def test_rpc_that_was_added_without_a_rule_stops_the_start(tmp_path: Any) -> None:
    rules = everybody_may()
    del rules[f"/{SERVICE}/DrainNode"]
    with pytest.raises(StartError, match=r"no caller rule for .*DrainNode"):
        server(rules, tmp_path).add(pb, SERVICE, nothing)


@pytest.mark.parametrize("word", ["services:gateway", "gateway", "service:", "Node", ""])
def test_rule_with_a_misspelt_word_stops_the_start_and_does_not_lock_everybody_out(word: str, tmp_path: Any) -> None:
    rules = {**everybody_may(), f"/{SERVICE}/DrainNode": frozenset({"service:gateway", word})}
    with pytest.raises(StartError, match="unknown words"):
        server(rules, tmp_path).add(pb, SERVICE, nothing)


def test_rpc_for_anybody_is_only_where_no_certificate_is_asked_for(tmp_path: Any) -> None:
    rules = {**everybody_may(), f"/{SERVICE}/DrainNode": frozenset({"anonymous", "service:gateway"})}
    with pytest.raises(StartError, match="anonymous"):
        server(rules, tmp_path).add(pb, SERVICE, nothing)
    joining = {f"/{JOIN_SERVICE}/JoinNode": frozenset({"anonymous"})}
    server(joining, tmp_path, client_certificates=False).add(pb, JOIN_SERVICE, nothing)
    with pytest.raises(StartError, match="wants a certificate"):
        server(everybody_may(), tmp_path, client_certificates=False).add(pb, SERVICE, nothing)
