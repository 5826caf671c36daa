"""What the registry shows of itself to Prometheus."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_registry.domain import STATUSES, Status

_SOURCES = frozenset({"aws", "gcp", "azure", "file", "signal"})
_OTHER = "other"


class Observations:
    """The registry's own metrics; those of RPCs are in crosslogic_common.metrics."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Without a `registry` nobody sees them: for tests."""
        registry = registry if registry is not None else CollectorRegistry()
        self._nodes = Gauge("crosslogic_registry_nodes", "Nodes by status.", ["status"], registry=registry)
        self._active = Gauge("nodes_active_total", "Nodes that serve.", registry=registry)
        self._draining = Gauge("nodes_draining_total", "Nodes that finish what they have.", registry=registry)
        self._spot_notices = Counter(
            "crosslogic_registry_spot_notices",
            "Notices of clouds that take a machine back, or may.",
            ["source", "kind"],
            registry=registry,
        )
        # Zeros from the start: a first notice is a rise that a query sees.
        for source in (*_SOURCES, _OTHER):
            for kind in ("risk", "termination"):
                self._spot_notices.labels(source, kind)
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
        self.log_lines_dropped = Counter(
            "crosslogic_registry_log_lines_dropped", "Log lines of nodes that could not be kept.", registry=registry
        )
        self.waiting_witnesses = Gauge(
            "crosslogic_registry_waiting_witnesses", "Witnesses that wait for the accountant.", registry=registry
        )

    def fleet(self, by_status: Mapping[Status, int], unreachable: int) -> None:
        """How many nodes there are of each status, and how many active ones are not heard of."""
        for status in STATUSES:
            self._nodes.labels(status).set(by_status.get(status, 0))
        self._active.set(by_status.get("active", 0))
        self._draining.set(by_status.get("draining", 0))
        self._unreachable.set(unreachable)

    def spot_notice(self, notice: pb.SpotNotice) -> None:
        """A node told of a notice that it had not told of before."""
        kind = "risk" if notice.kind == pb.SPOT_NOTICE_KIND_RISK else "termination"
        # A node is not trusted to make labels.
        self._spot_notices.labels(notice.source if notice.source in _SOURCES else _OTHER, kind).inc()
