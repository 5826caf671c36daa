"""What the registry shows of itself to Prometheus."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from crosslogic_registry.domain import STATUSES, Status


class Observations:
    """The registry's own metrics; those of RPCs are in crosslogic_common.metrics."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Without a `registry` nobody sees them: for tests."""
        registry = registry if registry is not None else CollectorRegistry()
        self._nodes = Gauge("crosslogic_registry_nodes", "Nodes by status.", ["status"], registry=registry)
        self._unreachable = Gauge(
            "crosslogic_registry_unreachable_nodes", "Active nodes whose heartbeats do not come.", registry=registry
        )
        self.mass_silence = Gauge(
            "crosslogic_registry_mass_silence",
            "1 while so much of the fleet is silent that nobody is given up.",
            registry=registry,
        )
        self.heartbeats = Counter("crosslogic_registry_heartbeats", "Heartbeats taken.", registry=registry)
        self.watchers = Gauge("crosslogic_registry_watchers", "Streams that watch the fleet.", registry=registry)
        self.unsaved_changes = Gauge(
            "crosslogic_registry_unsaved_changes", "Changes that wait for the database.", registry=registry
        )
        self.lease_failures = Counter(
            "crosslogic_registry_lease_failures", "Rounds of leases that Redis did not take.", registry=registry
        )
        self.witnesses = Counter(
            "crosslogic_registry_witnesses", "Witnesses by what became of them.", ["result"], registry=registry
        )
        self.waiting_witnesses = Gauge(
            "crosslogic_registry_waiting_witnesses", "Witnesses that wait for the accountant.", registry=registry
        )

    def fleet(self, by_status: Mapping[Status, int], unreachable: int) -> None:
        """How many nodes there are of each status, and how many active ones are not heard of."""
        for status in STATUSES:
            self._nodes.labels(status).set(by_status.get(status, 0))
        self._unreachable.set(unreachable)
