"""Prometheus metrics of a process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import generate_latest, start_http_server

from crosslogic_common.process import StartError

_RPC_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LOOP_LOOK_S = 0.25


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

    @contextlib.contextmanager
    def served(self, listen: str) -> Iterator[None]:
        """Serves GET /metrics at `listen` (host:port) for as long as the block lasts. Empty: not at all.

        Raises StartError when the port is taken.
        """
        if not listen:
            yield
            return
        host, _, port = listen.rpartition(":")
        try:
            server, thread = start_http_server(int(port), addr=host.strip("[]"), registry=self.registry)
        except OSError as error:
            raise StartError(f"cannot serve metrics on {listen}: {error.strerror or error}") from None
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
