"""What the scheduler tells of itself."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from crosslogic_common.fast_metrics import FastHistogram
from crosslogic_common.outliers import Reason
from crosslogic_scheduler.fleet import FleetView, ViewEvents

_DECISION_S = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class SchedulerMetrics:
    """Counters of picks, and gauges that are read when somebody looks."""

    def __init__(self, registry: CollectorRegistry, regions: Iterable[str] = ()) -> None:
        """`regions` are shown from the start, so that a first failover of one is a rise that a query sees."""
        self._registry = registry
        picks = Counter("crosslogic_scheduler_picks", "Picks by outcome.", ["outcome"], registry=registry)
        self.picked = picks.labels("picked")
        self.refused = picks.labels("refused")
        self._decision = FastHistogram(
            "crosslogic_scheduler_decision_seconds",
            "Time to answer one message of picks.",
            buckets=_DECISION_S,
            registry=registry,
        )
        self._batch = FastHistogram(
            "crosslogic_scheduler_pick_batch_size", "Picks a message.", buckets=_BATCH, registry=registry
        )
        self._ejections = Counter(
            "crosslogic_scheduler_ejections", "Nodes ejected, by reason.", ["reason"], registry=registry
        )
        self._failovers = Counter(
            "crosslogic_scheduler_region_failovers",
            "Requests sent to another region, by the region that is down.",
            ["region"],
            registry=registry,
        )
        for region in regions:
            self._failovers.labels(region)

    def decided(self, picks: int, elapsed_s: float) -> None:
        """A message of picks was answered."""
        self._decision.observe((), elapsed_s)
        self._batch.observe((), picks)

    @property
    def events(self) -> ViewEvents:
        """What the view is to tell of."""
        return ViewEvents(ejected=self._count_ejection, failed_over=lambda region: self._failovers.labels(region).inc())

    def watch(self, view: FleetView, stale_s: Callable[[], float]) -> None:
        """Reads the view, and `stale_s`, at each look."""
        for name, text, read in (
            ("crosslogic_scheduler_nodes", "Active nodes.", lambda: len(view)),
            ("crosslogic_scheduler_nodes_ejected", "Nodes that are ejected now.", lambda: view.ejected),
            (
                "crosslogic_scheduler_prefix_blocks",
                "Blocks of prompts that are remembered.",
                lambda: view.remembered_blocks,
            ),
            (
                "crosslogic_scheduler_view_stale_seconds",
                "Seconds since the registry's watch was lost; 0 while it runs.",
                stale_s,
            ),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)

    def _count_ejection(self, reason: Reason) -> None:
        self._ejections.labels(reason.value.replace(" ", "_")).inc()
