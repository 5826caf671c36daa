"""Each node as Prometheus sees it, nodes behind NAT included: read from the fleet when somebody scrapes."""

import heapq
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crosslogic_registry.fleet import Fleet
from crosslogic_registry.members import Member

MAX_NODES_SHOWN = 2_000
"""Of a larger fleet those are shown that are least well."""
_LABELS = ("node", "region")


class NodeMetricsCollector(Collector):
    """`node_*`: one series a node that is not dead."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[Metric]:
        """For the scrape, on its own thread."""
        alive = [member for member in list(self._fleet.members()) if member.status not in ("dead", "registering")]
        shown = heapq.nsmallest(MAX_NODES_SHOWN, alive, key=lambda member: member.node.health_score)
        health = self._family("node_health_score", "How well a node is, 0 (useless) to 100 (nothing wrong).")
        age = self._family("node_heartbeat_age_seconds", "Time since a node was last heard of.")
        temperature = self._family("node_gpu_temperature_celsius", "A node's hottest accelerator.")
        used = self._family("node_vram_used_bytes", "Memory in use on all accelerators of a node.")
        total = self._family("node_vram_total_bytes", "Memory of all accelerators of a node.")
        fragmentation = self._family(
            "node_vram_fragmentation_ratio", "Share of an engine's memory that holds nothing and cannot be given away."
        )
        cache = self._family("node_kv_cache_usage_ratio", "Share of an engine's key-value cache in use.")
        waiting = self._family("node_requests_waiting", "Requests that wait inside a node's engine.")
        for member in shown:
            labels = (member.node.id, member.node.facts.region)
            metrics = member.node.metrics
            health.add_metric(labels, member.node.health_score)
            age.add_metric(labels, self._age_s(member))
            cache.add_metric(labels, member.node.load.kv_cache_usage)
            waiting.add_metric(labels, member.node.load.waiting)
            if metrics.vram_total_bytes:
                temperature.add_metric(labels, metrics.gpu_temperature_celsius)
                used.add_metric(labels, metrics.vram_used_bytes)
                total.add_metric(labels, metrics.vram_total_bytes)
            if metrics.HasField("memory_fragmentation"):
                fragmentation.add_metric(labels, metrics.memory_fragmentation)
        return (health, age, temperature, used, total, fragmentation, cache, waiting)

    def describe(self) -> Iterable[Metric]:
        """For the registry: nothing that clashes."""
        return ()

    def _age_s(self, member: Member) -> float:
        return max(0.0, self._fleet.silent_s(member))

    @staticmethod
    def _family(name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, text, labels=_LABELS)
