"""A traced call's spans, and what the engine is told of them."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crosslogic_node_agent.call_trace import begin_call
from crosslogic_node_agent.domain import Ending, TokenCount
from crosslogic_node_agent.engine_connection import request_bytes

GATEWAYS = f"00-{'ab' * 16}-{'cd' * 8}-01"


def test_call_that_fails_has_two_spans_below_the_gateways_that_say_so() -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    found = begin_call(provider.get_tracer("test"), GATEWAYS)
    assert found is not None
    found.end(TokenCount(), Ending.FAILED, None)
    engine, relay = kept.get_finished_spans()
    assert found.engine_traceparent == f"00-{'ab' * 16}-{engine.context.span_id:016x}-01"
    assert engine.parent is not None
    assert relay.parent is not None
    assert (engine.parent.span_id, f"{relay.parent.span_id:016x}") == (relay.context.span_id, "cd" * 8)
    assert not engine.status.is_ok
    assert not relay.status.is_ok
    provider.shutdown()


def test_malformed_parent_begins_no_trace() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    assert begin_call(tracer, "") is None
    assert begin_call(tracer, GATEWAYS + "\r\nX-Evil: 1") is None


def test_engine_is_told_nothing_of_a_request_that_is_not_traced() -> None:
    assert b"traceparent" not in request_bytes("POST", "/v1/completions", b"{}", "id")
    assert f"\r\ntraceparent: {GATEWAYS}\r\n".encode() in request_bytes("POST", "/v1/x", b"{}", "id", GATEWAYS)
