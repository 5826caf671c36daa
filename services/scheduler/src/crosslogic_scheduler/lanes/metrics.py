"""What the lanes tell of themselves."""

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from crosslogic_scheduler.lanes.lanes import Lanes


class LaneMetrics(Collector):
    """How full each lane is that somebody uses. Read when somebody looks."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes

    def collect(self) -> list[GaugeMetricFamily]:
        """What it is now."""
        taken = GaugeMetricFamily(
            "crosslogic_scheduler_lane_taken",
            "Part of a lane's places that is taken, where they are known.",
            labels=["model", "region", "org"],
        )
        for lane, part in self._lanes.saturation():
            # A label of its own for each organisation's nodes: a metric names no tenant otherwise.
            taken.add_metric([lane.model, lane.region, lane.org_id], part)
        gateways = GaugeMetricFamily("crosslogic_scheduler_lane_gateways", "Gateway workers that tell what they use.")
        gateways.add_metric([], len(self._lanes))
        return [taken, gateways]
