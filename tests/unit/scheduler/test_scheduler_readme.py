"""The scheduler's README says what its operators will find."""

from pathlib import Path

from crosslogic_common.metrics import Metrics
from crosslogic_common.outliers import Reason
from crosslogic_common.regions import default_regions
from crosslogic_scheduler.fleet import FleetView
from crosslogic_scheduler.metrics import SchedulerMetrics

README = Path(__file__).parents[3] / "services/scheduler/README.md"


def test_every_metric_is_in_the_readme() -> None:
    metrics = Metrics()
    picks = SchedulerMetrics(metrics.registry)
    view = FleetView(draw=lambda: 0.0, now=lambda: 0.0, regions=default_regions())
    picks.watch(view, lambda: 0.0)
    picks.events.ejected(Reason.SLOW)
    picks.events.failed_over("in-mumbai")
    readme = README.read_text(encoding="utf-8")
    names = {
        line.split("{")[0].split(" ")[0]
        for line in metrics.text().decode().splitlines()
        if line.startswith("crosslogic_scheduler_") and "_created" not in line
    }
    assert len(names) == 7
    assert [name for name in sorted(names) if name not in readme] == []
