"""Counts and times of HTTP requests, cheap enough for each one."""

from aiohttp import web
from prometheus_client import Counter, Histogram

from crosslogic_common.metrics import Metrics

_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 1, 2.5, 10, 30, 60, 300)


class RequestMetrics:
    """`crosslogic_http_requests_total` and `crosslogic_http_request_seconds`, by route."""

    def __init__(self, metrics: Metrics) -> None:
        self._counter = Counter(
            "crosslogic_http_requests",
            "HTTP requests, by route and status.",
            ["route", "status"],
            registry=metrics.registry,
        )
        self._seconds = Histogram(
            "crosslogic_http_request_seconds",
            "Time from a request's head to the end of its answer, by route.",
            ["route"],
            buckets=_BUCKETS_S,
            registry=metrics.registry,
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def observe(self, request: web.Request, status: int, elapsed_s: float) -> None:
        """Notes a finished request. Routes are those of the application: a client cannot make new ones."""
        resource = request.match_info.route.resource
        route = "none" if resource is None else resource.canonical
        children = self._children.get((route, status))
        if children is None:
            children = (self._counter.labels(route, str(status)), self._seconds.labels(route))
            self._children[route, status] = children
        children[0].inc()
        children[1].observe(elapsed_s)
