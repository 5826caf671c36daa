"""What the orchestrator tells Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

from crosslogic_common.metrics import Metrics

_BUCKETS_S = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_200, 2_400)


class OrchestratorMetrics:
    """Jobs, their steps, and machines that nobody knew of."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self.jobs = Counter("crosslogic_jobs", "Jobs that ended.", ["kind", "outcome"], registry=registry)
        self.step_seconds = Histogram(
            "crosslogic_job_step_seconds", "Time in a step.", ["kind", "step"], buckets=_BUCKETS_S, registry=registry
        )
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
        self.desired = Gauge(
            "crosslogic_deployment_desired",
            "Machines that a deployment should have.",
            ["model", "region"],
            registry=registry,
        )
        self.scaled = Counter(
            "crosslogic_scaled", "Machines that the autoscaler launched or ended.", ["kind"], registry=registry
        )
