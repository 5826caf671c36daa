"""How requests were served, by model, node and region: noted once a request, when it ends. Nothing a chunk."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from crosslogic_common.fast_metrics import FastCounter, FastHistogram
from crosslogic_gateway.answers import StreamedAnswer
from crosslogic_gateway.jobs import Run

_BALANCING_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
MAX_NODE_SERIES = 2_000
"""Pairs of model and node; of a fleet that comes and goes, the oldest are forgotten."""
MAX_PLACES = 5_000
_Observe = Callable[[float], None]
_Place = tuple[tuple[str, ...], _Observe, _Observe, _Observe]


class ServingMetrics:
    """`loadbalancer_*`, `tokens_processed_total`, and the times of tokens."""

    def __init__(self, registry: CollectorRegistry, trace_id: Callable[[], str] | None = None) -> None:
        """`trace_id` tells the trace of the request in hand, empty without one; None: nothing is traced."""
        self._trace_id = trace_id
        self._places: dict[tuple[str, str], _Place] = {}
        self._requests = FastCounter(
            "loadbalancer_requests",
            "Requests sent to nodes, retries included.",
            ["model", "node"],
            registry=registry,
            max_series=MAX_NODE_SERIES,
            forgets=True,
        )
        self._errors = FastCounter(
            "loadbalancer_errors",
            "Times that no node could be picked for a request, or that its node failed it.",
            ["model", "reason"],
            registry=registry,
        )
        self._balancing = FastHistogram(
            "loadbalancer_latency_seconds",
            "Time from a request's head to its being sent to the node that answers: limits, queue, pick, failed nodes.",
            ["model"],
            buckets=_BALANCING_S,
            registry=registry,
        )
        self._tokens = FastCounter(
            "tokens_processed", "Tokens of prompts and answers of requests that ended.", ["model"], registry=registry
        )
        self._first_token = FastHistogram(
            "crosslogic_time_to_first_token_seconds",
            "Time from a streamed request's head to its first byte for the client.",
            ["model", "region"],
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self._next_token = FastHistogram(
            "crosslogic_inter_token_seconds",
            "Mean time between the tokens of a stream, one value a stream.",
            ["model", "region"],
            buckets=_TOKEN_S,
            registry=registry,
        )

    def sent(self, model: str, node_id: str) -> None:
        """A node is asked."""
        self._requests.inc((model, node_id))

    def failed(self, model: str, reason: str) -> None:
        """No node could be picked, or the node asked failed; `reason` is one of a few words."""
        self._errors.inc((model, reason))

    def ended(self, run: Run, tokens: int) -> None:
        """A request that reached a node has ended."""
        attempt = run.attempt
        if attempt is None:
            return
        place = (run.job.model.name, attempt.route.region)
        model, balanced, first_token, next_token = self._places.get(place) or self._place(place)
        self._tokens.inc(model, tokens)
        if not run.resumed:
            balanced(attempt.opened_at - run.received_at)
        answer = attempt.answer
        if not run.first_byte_at or not isinstance(answer, StreamedAnswer):
            return
        first_s = run.first_byte_at - run.received_at
        first_token(first_s)
        if self._trace_id is not None and (trace_id := self._trace_id()):
            self._first_token.exemplify(place, first_s, trace_id=trace_id, at_unix_s=time.time())
        gaps = answer.completion_tokens - 1
        if gaps > 0:
            next_token(max(answer.last_frame_at - run.first_byte_at, 0.0) / gaps)

    def _place(self, place: tuple[str, str]) -> _Place:
        """What notes requests for a model in a region."""
        model = place[:1]
        made = model, self._balancing.under(model), self._first_token.under(place), self._next_token.under(place)
        if len(self._places) < MAX_PLACES:
            self._places[place] = made
        return made
