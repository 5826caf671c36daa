"""What the scheduler tells of itself."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class SchedulerMetrics:
    """Counters of picks, and gauges that are read when somebody looks."""

    def __init__(self, registry: CollectorRegistry, *, nodes: Callable[[], int], stale_s: Callable[[], float]) -> None:
        """`nodes` and `stale_s` are called at each look."""
        picks = Counter("crosslogic_scheduler_picks", "Picks by outcome.", ["outcome"], registry=registry)
        self.picked = picks.labels("picked")
        self.refused = picks.labels("refused")
        Gauge("crosslogic_scheduler_nodes", "Active nodes.", registry=registry).set_function(nodes)
        Gauge(
            "crosslogic_scheduler_view_stale_seconds",
            "Seconds since the registry's watch was lost; 0 while it runs.",
            registry=registry,
        ).set_function(stale_s)
