"""One trace a request: which are sampled, and the spans of this gateway. What is not sampled meets none of it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from aiohttp import web
from opentelemetry import context, trace

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.tracing import is_sampled, parent, traceparent_of
from crosslogic_gateway.answers import Answer
from crosslogic_gateway.domain import Route
from crosslogic_gateway.http import REQUEST_ID

CLIENT_TRACES_PER_S = 10
"""Traces that clients may ask for by their `traceparent`, in one worker: one who asks always pays nothing for it."""
MAX_ATTEMPT_SPANS = 16
_KEY = context.create_key("crosslogic-request")


class RequestTrace:
    """A sampled request: its span, and those of the nodes that worked on it."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span)
        self._attempts: list[tuple[trace.Span, Answer]] = []
        self.trace_id = f"{span.get_span_context().trace_id:032x}"
        self.picking = ""
        """The `traceparent` of the pick under way."""

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Whoever works for this request within the block finds it with `current_trace`."""
        token = context.attach(context.set_value(_KEY, self, self._context))
        try:
            yield
        finally:
            context.detach(token)

    @contextlib.contextmanager
    def pick(self, model: str) -> Iterator[None]:
        """A span for as long as a node is looked for."""
        with self._tracer.start_as_current_span(
            "pick", context=self._context, kind=trace.SpanKind.CLIENT, attributes={"crosslogic.model": model}
        ) as span:
            self.picking = traceparent_of(span)
            try:
                yield
            finally:
                self.picking = ""

    def attempt(self, route: Route, opening: agent_pb.RelayOpen, answer: Answer) -> None:
        """A node is asked: it is told its span, which lasts until the answer ends."""
        self._end_attempts(only_ended=True)
        if len(self._attempts) >= MAX_ATTEMPT_SPANS:
            return
        span = self._tracer.start_span(
            "node",
            context=self._context,
            kind=trace.SpanKind.CLIENT,
            attributes={"crosslogic.node": route.node_id, "crosslogic.region": route.region},
        )
        opening.traceparent = traceparent_of(span)
        self._attempts.append((span, answer))

    def end(self, request: web.Request, status: int) -> None:
        """The request is answered. `status` 0: its client left."""
        self._end_attempts(only_ended=False)
        span = self._span
        resource = request.match_info.route.resource
        path = "none" if resource is None else resource.canonical
        span.update_name(f"{request.method} {path}")
        span.set_attributes(
            {
                "http.request.method": request.method,
                "http.route": path,
                "http.response.status_code": status,
                "crosslogic.request_id": request[REQUEST_ID],
            }
        )
        if status >= 500:  # HTTP's own boundary  # noqa: PLR2004
            span.set_status(trace.StatusCode.ERROR)
        span.end()

    def _end_attempts(self, *, only_ended: bool) -> None:
        kept: list[tuple[trace.Span, Answer]] = []
        for span, answer in self._attempts:
            if only_ended and not answer.ended:
                kept.append((span, answer))
                continue
            if answer.error is not None:
                span.set_status(trace.StatusCode.ERROR, answer.error.code.value)
            span.end()
        self._attempts = kept


class RequestTraces:
    """Decides which requests are traced: those whose client asks for it, within bounds, and a share of the others."""

    def __init__(
        self,
        tracer: trace.Tracer,
        *,
        ratio: float,
        draw: Callable[[], float],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ratio` is the share of requests, 0 to 1; `draw` gives a number from 0 to 1."""
        self._tracer = tracer
        self._ratio = ratio
        self._draw = draw
        self._now = now
        self._second = 0.0
        self._asked = 0

    def begin(self, headers: Mapping[str, str]) -> RequestTrace | None:
        """The trace of a request that arrives now. None: it is not sampled."""
        given = headers.get("traceparent", "")
        if not (given and is_sampled(given) and self._may_ask()) and self._draw() >= self._ratio:
            return None
        above = parent(given) or context.Context()
        return RequestTrace(self._tracer, self._tracer.start_span("request", context=above, kind=trace.SpanKind.SERVER))

    def _may_ask(self) -> bool:
        now = self._now()
        if now - self._second >= 1.0:
            self._second, self._asked = now, 0
        self._asked += 1
        return self._asked <= CLIENT_TRACES_PER_S


def current_trace() -> RequestTrace | None:
    """The trace of the request that is being served here. None: it is not sampled."""
    found = context.get_value(_KEY)
    return found if isinstance(found, RequestTrace) else None


def current_trace_id() -> str:
    """The same trace's id; empty without one."""
    found = current_trace()
    return "" if found is None else found.trace_id
