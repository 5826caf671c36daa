"""Prometheus metrics of a process."""

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest, start_http_server

_RPC_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


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

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    @contextlib.contextmanager
    def served(self, listen: str) -> Iterator[None]:
        """Serves GET /metrics at `listen` (host:port) for as long as the block lasts. Empty: not at all."""
        if not listen:
            yield
            return
        host, _, port = listen.rpartition(":")
        server, thread = start_http_server(int(port), addr=host, registry=self.registry)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
