"""Counts, times and sizes of HTTP requests, cheap enough for each one."""

import time

from aiohttp import web
from prometheus_client import Gauge

from crosslogic_common.fast_metrics import FastCounter, FastHistogram
from crosslogic_common.metrics import Metrics

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_BYTES = (256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 10_485_760)
_METHODS = frozenset({"GET", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "HEAD"})


class RequestMetrics:
    """`http_requests_total`, `http_request_duration_seconds` and the sizes of bodies, by method and path.

    Paths are those of the application: a client cannot make new ones.
    """

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self._requests = FastCounter("http_requests", "HTTP requests.", ["method", "path", "status"], registry=registry)
        self._seconds = FastHistogram(
            "http_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ["method", "path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._request_bytes = FastHistogram(
            "http_request_size_bytes",
            "Bytes of requests' bodies, by their Content-Length.",
            ["method", "path"],
            buckets=_BYTES,
            registry=registry,
        )
        self._response_bytes = FastHistogram(
            "http_response_size_bytes",
            "Bytes of answers' bodies.",
            ["method", "path"],
            buckets=_BYTES,
            registry=registry,
        )
        self._in_flight = 0
        Gauge("http_requests_in_flight", "HTTP requests under way.", registry=registry).set_function(
            lambda: self._in_flight
        )
        # Texts of labels, so that none is made for a request.
        self._known: dict[tuple[str, str, int], tuple[tuple[str, str, str], tuple[str, str]]] = {}

    def begin(self) -> None:
        """A request is under way."""
        self._in_flight += 1

    def observe(self, request: web.Request, status: int, elapsed_s: float, sent_bytes: int) -> None:
        """Notes a finished request."""
        self._in_flight -= 1
        resource = request.match_info.route.resource
        path = "none" if resource is None else resource.canonical
        method = request.method
        known = self._known.get((method, path, status))
        if known is None:
            word = method if method in _METHODS else "other"
            known = (word, path, str(status)), (word, path)
            if word != "other":
                self._known[method, path, status] = known
        three, two = known
        self._requests.inc(three)
        self._seconds.observe(two, elapsed_s)
        self._request_bytes.observe(two, request.content_length or 0)
        self._response_bytes.observe(two, sent_bytes)

    def exemplify(self, request: web.Request, elapsed_s: float, trace_id: str) -> None:
        """Notes the trace of a request that was observed just before."""
        resource = request.match_info.route.resource
        path = "none" if resource is None else resource.canonical
        word = request.method if request.method in _METHODS else "other"
        self._seconds.exemplify((word, path), elapsed_s, trace_id=trace_id, at_unix_s=time.time())


class AuthMetrics:
    """`auth_attempts_total` and `auth_failures_total`: keys that were shown, and why some did not open."""

    def __init__(self, metrics: Metrics) -> None:
        self._attempts = FastCounter(
            "auth_attempts", "Requests that showed an API key, or should have.", ["status"], registry=metrics.registry
        )
        self._failures = FastCounter(
            "auth_failures", "Requests whose API key did not open.", ["reason"], registry=metrics.registry
        )

    def succeeded(self) -> None:
        """The key's owner is known and may use it."""
        self._attempts.inc(_SUCCEEDED)

    def failed(self, reason: str) -> None:
        """It is not; `reason` is one of the error codes."""
        self._attempts.inc(_FAILED)
        self._failures.inc((reason.lower(),))


_SUCCEEDED = ("succeeded",)
_FAILED = ("failed",)
