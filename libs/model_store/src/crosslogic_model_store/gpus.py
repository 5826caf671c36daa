"""Accelerators by name, and the machines of clouds that have them.

Memory is what a program sees, which is a little less than what is sold. From the vendors' and the clouds' pages.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from crosslogic_model_store.fit import GIB, Accelerators

_GIB_BY_NAME: Final[Mapping[str, float]] = MappingProxyType(
    {
        "T4": 14.5,
        "V100": 15.7,
        "V100-32GB": 31.7,
        "A10": 22.0,
        "A10G": 22.0,
        "L4": 22.0,
        "RTX4090": 23.5,
        "RTX5090": 31.3,
        "L40": 44.3,
        "L40S": 44.3,
        "A6000": 47.4,
        "A100": 39.4,
        "A100-80GB": 79.1,
        "H100": 79.1,
        "GH200": 94.5,
        "H200": 139.7,
        "B200": 178.3,
        "MI300X": 191.9,
    }
)
_BY_MACHINE: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        **{f"g4dn.{size}": ("T4", 1) for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")},
        **{f"g5.{size}": ("A10G", 1) for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")},
        **{f"g6.{size}": ("L4", 1) for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")},
        **{f"g6e.{size}": ("L40S", 1) for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")},
        "g4dn.12xlarge": ("T4", 4),
        "g5.12xlarge": ("A10G", 4),
        "g5.24xlarge": ("A10G", 4),
        "g5.48xlarge": ("A10G", 8),
        "g6.12xlarge": ("L4", 4),
        "g6.24xlarge": ("L4", 4),
        "g6.48xlarge": ("L4", 8),
        "g6e.12xlarge": ("L40S", 4),
        "g6e.24xlarge": ("L40S", 4),
        "g6e.48xlarge": ("L40S", 8),
        "p3.2xlarge": ("V100", 1),
        "p3.8xlarge": ("V100", 4),
        "p3.16xlarge": ("V100", 8),
        "p4d.24xlarge": ("A100", 8),
        "p4de.24xlarge": ("A100-80GB", 8),
        "p5.4xlarge": ("H100", 1),
        "p5.48xlarge": ("H100", 8),
        "p5e.48xlarge": ("H200", 8),
        "p5en.48xlarge": ("H200", 8),
        "p6-b200.48xlarge": ("B200", 8),
        **{f"a2-highgpu-{count}g": ("A100", count) for count in (1, 2, 4, 8)},
        "a2-megagpu-16g": ("A100", 16),
        **{f"a2-ultragpu-{count}g": ("A100-80GB", count) for count in (1, 2, 4, 8)},
        **{f"a3-highgpu-{count}g": ("H100", count) for count in (1, 2, 4, 8)},
        "a3-megagpu-8g": ("H100", 8),
        "a3-ultragpu-8g": ("H200", 8),
        "a4-highgpu-8g": ("B200", 8),
        **{f"g2-standard-{cores}": ("L4", 1) for cores in (4, 8, 12, 16, 32)},
        "g2-standard-24": ("L4", 2),
        "g2-standard-48": ("L4", 4),
        "g2-standard-96": ("L4", 8),
        "Standard_NC24ads_A100_v4": ("A100-80GB", 1),
        "Standard_NC48ads_A100_v4": ("A100-80GB", 2),
        "Standard_NC96ads_A100_v4": ("A100-80GB", 4),
        "Standard_ND96asr_v4": ("A100", 8),
        "Standard_ND96amsr_A100_v4": ("A100-80GB", 8),
        "Standard_NC40ads_H100_v5": ("H100", 1),
        "Standard_NC80adis_H100_v5": ("H100", 2),
        "Standard_ND96isr_H100_v5": ("H100", 8),
        "Standard_ND96isr_H200_v5": ("H200", 8),
        "VM.GPU.A10.1": ("A10", 1),
        "VM.GPU.A10.2": ("A10", 2),
        "BM.GPU4.8": ("A100", 8),
        "BM.GPU.A100-v2.8": ("A100-80GB", 8),
        "BM.GPU.H100.8": ("H100", 8),
        "BM.GPU.H200.8": ("H200", 8),
    }
)
_NAMED = re.compile(r"([A-Za-z0-9-]+):(\d{1,2})", re.ASCII)


def accelerators(name: str, count: int = 1) -> Accelerators | None:
    """Accelerators by their name, whatever its case. None: not known here."""
    found = {known.lower(): known for known in _GIB_BY_NAME}.get(name.lower())
    if found is None or count < 1:
        return None
    return Accelerators(found, int(_GIB_BY_NAME[found] * GIB), count)


def accelerators_of(instance_type: str) -> Accelerators | None:
    """Those of a cloud's machine, or of `H100:8`. None: not known here, which says nothing."""
    if found := _BY_MACHINE.get(instance_type):
        return accelerators(*found)
    named = _NAMED.fullmatch(instance_type)
    return accelerators(named.group(1), int(named.group(2))) if named else None


def known_names() -> list[str]:
    """Names of the accelerators that are known here."""
    return sorted(_GIB_BY_NAME)
