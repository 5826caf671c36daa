"""What Prometheus is told: the first machine that nobody knew of shows, a deployment that is no more does not."""

from crosslogic_common.metrics import Metrics
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.notify.metrics import NotifyMetrics


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_what_is_rare_is_told_as_nought_from_the_start() -> None:
    metrics = Metrics()
    OrchestratorMetrics(metrics).begin(["aws", "local"])
    NotifyMetrics(metrics)
    providers = {("aws",): 0.0, ("local",): 0.0}
    for name in ("machines_swept", "machines_lost", "machines_given_up", "launches_asked_again"):
        assert samples(metrics, f"crosslogic_{name}_total") == providers
    assert samples(metrics, "crosslogic_scaled_total") == {("launch",): 0, ("end",): 0}
    jobs = {(kind, outcome): 0 for kind in ("launch", "terminate") for outcome in ("succeeded", "failed")}
    assert samples(metrics, "crosslogic_jobs_total") == jobs
    steps = samples(metrics, "crosslogic_job_step_seconds_count")
    assert {("launch", "benchmark"), ("terminate", "deleting")} <= steps.keys()
    assert len(steps) == 10
    assert not any(steps.values())
    attempts = samples(metrics, "crosslogic_notification_attempts_total")
    assert attempts[("slack", "dead")] == 0
    assert not any(attempts.values())


def test_deployment_that_is_no_more_wants_no_machines() -> None:
    metrics = Metrics()
    own = OrchestratorMetrics(metrics)
    own.show_desired({("m", "a"): 2, ("m", "b"): 1})
    own.show_desired({("m", "a"): 3})
    assert samples(metrics, "crosslogic_deployment_desired") == {("m", "a"): 3}
    # Another replica decides from here on.
    own.show_desired({})
    assert samples(metrics, "crosslogic_deployment_desired") == {}
    own.show_desired({("m", "b"): 4})
    assert samples(metrics, "crosslogic_deployment_desired") == {("m", "b"): 4}
