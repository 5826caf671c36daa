"""Queries of dashboards that a suite without accelerators gives no data for, with the series that fill them.

tests/e2e/test_e2e_observed.py runs every other query, tests/contract/test_k8s_dashboards.py these.
"""

from collections.abc import Mapping
from types import MappingProxyType

NEED_A_GPU: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "max by (node) (node_gpu_temperature_celsius)": ("node_gpu_temperature_celsius",),
        "max by (node) (node_vram_used_bytes / node_vram_total_bytes)": (
            "node_vram_used_bytes",
            "node_vram_total_bytes",
        ),
        "max by (node) (node_vram_fragmentation_ratio)": ("node_vram_fragmentation_ratio",),
    }
)
"""The registry shows these only of nodes that have an accelerator."""
