"""Prometheus metrics of a process."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import generate_latest, make_wsgi_app

from crosslogic_common.process import StartError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_RPC_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LOOP_LOOK_S = 0.25
_STUCK_S = 10.0
"""An event loop that has not come round for so long is stuck: the process is better started anew."""


class Metrics:
    """One process's metrics, in a registry of their own so that a test can have as many as it likes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.rpcs = Counter(
            "crosslogic_rpcs", "RPCs served, by method and status.", ["method", "code"], registry=self.registry
        )
        self.rpc_seconds = Histogram(
            "crosslogic_rpc_seconds",
            "Time from a unary RPC's arrival to its answer.",
            ["method"],
            buckets=_RPC_BUCKETS_S,
            registry=self.registry,
        )
        self.loop_lag_seconds = Gauge(
            "crosslogic_event_loop_lag_seconds",
            "How late the event loop last woke from a short sleep: what every request waits for when it is busy.",
            registry=self.registry,
        )

        self.serving = False
        """Whether the process takes requests: what `/ready` says."""
        self._looked_at: float | None = None
        self._pages = make_wsgi_app(self.registry)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    @contextlib.asynccontextmanager
    async def loop_watched(self) -> AsyncIterator[None]:
        """Measures the event loop's lag four times a second for as long as the block lasts."""
        watching = asyncio.create_task(self._watch_loop())
        try:
            yield
        finally:
            watching.cancel()

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOP_LOOK_S
            await asyncio.sleep(_LOOP_LOOK_S)
            self.loop_lag_seconds.set(max(0.0, loop.time() - due))
            self._looked_at = time.monotonic()

    @contextlib.contextmanager
    def served(self, listen: str) -> Iterator[None]:
        """Serves GET /metrics, /live and /ready at `listen` (host:port) for as long as the block lasts. Empty: nothing.

        `/live` answers 503 once the event loop is stuck, `/ready` while the process takes no requests: what a kubelet
        asks, since it has no certificate for gRPC's health service. Raises StartError when the port is taken.
        """
        if not listen:
            yield
            return
        host, _, port = listen.rpartition(":")
        kind = _Server6 if ":" in host else _Server
        try:
            server = kind((host.strip("[]"), int(port)), _Handler)
        except OSError as error:
            raise StartError(f"cannot serve metrics on {listen}: {error.strerror or error}") from None
        server.set_app(self._page)
        thread = threading.Thread(target=server.serve_forever, daemon=True, name="metrics")
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _page(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            pages: Iterable[bytes] = self._pages(environ, start_response)
            return pages
        if path == "/live":
            well = self._looked_at is None or time.monotonic() - self._looked_at < _STUCK_S
            status, text = ("200 OK", b"live\n") if well else ("503 Service Unavailable", b"the event loop is stuck\n")
        elif path == "/ready":
            status, text = ("200 OK", b"ready\n") if self.serving else ("503 Service Unavailable", b"not serving\n")
        else:
            status, text = "404 Not Found", b"there are /metrics, /live and /ready\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))])
        return (text,)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10.0

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """A scrape is no news."""
