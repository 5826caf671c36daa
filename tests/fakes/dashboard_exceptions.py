"""Queries of dashboards that a suite without accelerators or launches gives no data for, with series that fill them.

tests/e2e/test_e2e_observed.py runs every other query, tests/contract/test_k8s_dashboards.py these.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Filled:
    """What is there, and what the query then returns after an hour."""

    series: Mapping[str, str]
    """With their values, a minute apart, as promtool writes them."""
    labels: str
    value: float


def _of_a_node(value: float, *names: str) -> Filled:
    return Filled({f'{name}{{node="n-1",region="r"}}': "8x60" for name in names}, '{node="n-1"}', value)


def _a_launch_a_minute(value: float) -> Filled:
    bucket = 'crosslogic_job_step_seconds_bucket{kind="launch",step="warm_up",le="%s"}'
    series = {bucket % "20": "0+1x60", bucket % "+Inf": "0+1x60"}
    return Filled(series, '{kind="launch",step="warm_up"}', value)


_STEP = "histogram_quantile(%s, sum by (le,kind,step) (rate(crosslogic_job_step_seconds_bucket[1h])))"
WITHOUT_DATA: Mapping[str, Filled] = MappingProxyType(
    {
        # The registry shows these only of nodes that have an accelerator.
        "max by (node) (node_gpu_temperature_celsius)": _of_a_node(8, "node_gpu_temperature_celsius"),
        "max by (node) (node_vram_used_bytes / node_vram_total_bytes)": _of_a_node(
            1, "node_vram_used_bytes", "node_vram_total_bytes"
        ),
        "max by (node) (node_vram_fragmentation_ratio)": _of_a_node(8, "node_vram_fragmentation_ratio"),
        # Half of what lasted up to 20 s lasted less than 10.
        _STEP % 0.5: _a_launch_a_minute(10),
        _STEP % 0.95: _a_launch_a_minute(19),
    }
)
