"""What the orchestrator tells Prometheus.

What is rare is told from the start, as 0: Prometheus sees no increase in a series that begins with 1, and the first
machine that nobody knew of would go unseen.
"""

from collections.abc import Iterable, Mapping
from typing import Final, get_args

from prometheus_client import Counter, Gauge, Histogram

from crosslogic_common.metrics import Metrics
from crosslogic_orchestrator.domain import JobKind, Step

_BUCKETS_S = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_200, 2_400)
_LAST: Final = (Step.ACTIVE, Step.TERMINATED)
"""No job spends time in them."""
SCALED: Final = ("launch", "end")


class OrchestratorMetrics:
    """Jobs, their steps, and machines that nobody knew of."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self.jobs = Counter("crosslogic_jobs", "Jobs that ended.", ["kind", "outcome"], registry=registry)
        for kind in get_args(JobKind):
            for outcome in ("succeeded", "failed"):
                self.jobs.labels(kind, outcome)
        self.step_seconds = Histogram(
            "crosslogic_job_step_seconds", "Time in a step.", ["kind", "step"], buckets=_BUCKETS_S, registry=registry
        )
        for step in Step:
            if step not in _LAST:
                self.step_seconds.labels("launch" if step < Step.ACTIVE else "terminate", step.name.lower())
        self.asked_again = Counter(
            "crosslogic_launches_asked_again",
            "Launches that their provider forgot and was asked for again.",
            ["provider"],
            registry=registry,
        )
        self.swept = Counter(
            "crosslogic_machines_swept", "Machines deleted that no job knew of.", ["provider"], registry=registry
        )
        self.lost = Counter("crosslogic_machines_lost", "Machines gone by themselves.", ["provider"], registry=registry)
        self.given_up = Counter(
            "crosslogic_machines_given_up", "Machines ended for a dead node.", ["provider"], registry=registry
        )
        self.not_ended = Gauge(
            "crosslogic_machines_not_ended",
            "Machines whose end has not come about for 15 minutes.",
            ["provider"],
            registry=registry,
        )
        self.dead_nodes_held = Gauge(
            "crosslogic_dead_nodes_held",
            "Machines that look dead and are not ended, because most of the fleet does.",
            registry=registry,
        )
        self.instances = Gauge(
            "crosslogic_instances", "Machines that are not ended, at the last sweep.", ["provider"], registry=registry
        )
        self._desired = Gauge(
            "crosslogic_deployment_desired",
            "Machines that a deployment should have.",
            ["model", "region"],
            registry=registry,
        )
        self.scaled = Counter(
            "crosslogic_scaled", "Machines that the autoscaler launched or ended.", ["kind"], registry=registry
        )
        for each in SCALED:
            self.scaled.labels(each)
        self._shown: frozenset[tuple[str, str]] = frozenset()

    def begin(self, providers: Iterable[str]) -> None:
        """Tells of what may happen to machines of these providers."""
        for provider in providers:
            for counter in (self.asked_again, self.swept, self.lost, self.given_up):
                counter.labels(provider)

    def show_desired(self, machines: Mapping[tuple[str, str], int]) -> None:
        """How many each deployment should have, by model and region. One that is not told of is no more."""
        for place, count in machines.items():
            self._desired.labels(*place).set(count)
        for place in self._shown - machines.keys():
            self._desired.remove(*place)
        self._shown = frozenset(machines)
