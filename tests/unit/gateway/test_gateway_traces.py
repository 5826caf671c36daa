"""Which requests are traced, and what their spans say."""

import random
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.tracing import is_sampled, parent
from crosslogic_gateway.answers import WholeAnswer
from crosslogic_gateway.domain import Route
from crosslogic_gateway.request_traces import (
    CLIENT_TRACES_PER_S,
    MAX_ATTEMPT_SPANS,
    RequestTrace,
    RequestTraces,
    current_trace,
    current_trace_id,
)

ASKED = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}


class Spans:
    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.now = 100.0

    def traces(self, ratio: float) -> RequestTraces:
        draw = random.Random(7).random
        return RequestTraces(self.provider.get_tracer("test"), ratio=ratio, draw=draw, now=lambda: self.now)

    def ended(self) -> list[ReadableSpan]:
        return list(self._kept.get_finished_spans())


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.provider.shutdown()


def begun(traces: RequestTraces, **headers: str) -> RequestTrace:
    found = traces.begin(headers)
    assert found is not None
    return found


@pytest.mark.parametrize(("ratio", "least", "most"), [(0, 0, 0), (1, 1000, 1000), (0.1, 70, 130)])
def test_share_of_requests_that_is_traced_is_what_was_asked_for(
    spans: Spans, ratio: float, least: int, most: int
) -> None:
    traces = spans.traces(ratio)
    assert least <= sum(traces.begin({}) is not None for _ in range(1000)) <= most


def test_client_that_always_asks_cannot_make_everything_be_traced(spans: Spans) -> None:
    traces = spans.traces(0)
    for _ in range(3):
        assert sum(traces.begin(ASKED) is not None for _ in range(1000)) == CLIENT_TRACES_PER_S
        spans.now += 1.0


def test_clients_trace_goes_on_in_ours_and_nonsense_does_not(spans: Spans) -> None:
    assert begun(spans.traces(0), **ASKED).trace_id == "ab" * 16
    assert begun(spans.traces(1), traceparent=f"00-{'ab' * 16}-{'cd' * 8}-00").trace_id == "ab" * 16
    for nonsense in ("", "x", f"00-{'0' * 32}-{'cd' * 8}-01", f"00-{'AB' * 16}-{'cd' * 8}-01", "a" * 100_000):
        assert not is_sampled(nonsense)
        assert parent(nonsense) is None
        assert begun(spans.traces(1), traceparent=nonsense).trace_id != "ab" * 16


def test_header_that_ends_a_line_is_no_traceparent() -> None:
    assert not is_sampled(ASKED["traceparent"] + "\n")
    assert not is_sampled(ASKED["traceparent"] + "\r\nX-Evil: 1")


async def test_each_node_that_was_asked_has_its_span_and_the_failed_one_says_so(spans: Spans) -> None:
    found = begun(spans.traces(0), **ASKED)
    first, second = WholeAnswer(), WholeAnswer()
    told = []
    for name, answer in (("n-1", first), ("n-2", second)):
        opening = agent_pb.RelayOpen()
        found.attempt(Route(name, "h:1", "local"), opening, answer)
        told.append(opening.traceparent)
        if answer is first:
            first.fail(CodedError(ErrorCode.ENGINE_UNAVAILABLE))
    [ended] = spans.ended()
    assert ended.attributes is not None
    assert (ended.name, ended.attributes["crosslogic.node"], ended.status.is_ok) == ("node", "n-1", False)
    assert all(is_sampled(each) for each in told)
    assert len(set(told)) == 2


async def test_request_that_asks_node_after_node_makes_no_endless_list(spans: Spans) -> None:
    found = begun(spans.traces(0), **ASKED)
    for number in range(MAX_ATTEMPT_SPANS * 2):
        opening = agent_pb.RelayOpen()
        found.attempt(Route(f"n-{number}", "h:1", "local"), opening, WholeAnswer())
        assert bool(opening.traceparent) == (number < MAX_ATTEMPT_SPANS)


def test_work_for_a_request_finds_its_trace_and_nobody_elses(spans: Spans) -> None:
    found = begun(spans.traces(0), **ASKED)
    assert current_trace() is None
    with found.current():
        assert current_trace() is found
        assert current_trace_id() == "ab" * 16
    assert current_trace_id() == ""
