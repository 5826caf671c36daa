"""The machine under the engine: its accelerators by NVML, its disk by the kernel."""

import shutil
from pathlib import Path

from crosslogic_model_store.fit import Accelerators
from crosslogic_node_agent.domain import MachineState
from crosslogic_node_agent.nvml import Gpus


class LocalMachine:
    """This machine."""

    def __init__(self, *, gpus: Gpus | None, disk: Path) -> None:
        """`gpus`: None where there is none. `disk`: a path on the file system that holds the weights."""
        self._gpus = gpus
        self._disk = disk

    def look(self) -> MachineState:
        """How it is now."""
        disk = shutil.disk_usage(_existing(self._disk))
        if self._gpus is None:
            return MachineState(disk_free_bytes=disk.free, disk_total_bytes=disk.total)
        gpus = self._gpus.read()
        return MachineState(
            gpu_type=gpus[0].name if gpus else "",
            gpu_count=len(gpus),
            driver_version=self._gpus.driver_version,
            gpu_utilization=max((gpu.utilization for gpu in gpus), default=0.0),
            gpu_temperature_celsius=max((gpu.temperature_celsius for gpu in gpus), default=0),
            vram_used_bytes=sum(gpu.used_bytes for gpu in gpus),
            vram_total_bytes=sum(gpu.total_bytes for gpu in gpus),
            disk_free_bytes=disk.free,
            disk_total_bytes=disk.total,
        )


def accelerators(gpus: Gpus | None, *, name: str, count: int, total_bytes: int) -> Accelerators | None:
    """Over what the engine can split a model; what the settings say counts more than the driver. None: nothing."""
    found = gpus.read() if gpus is not None else []
    # The engine gives each the same share: the smallest decides.
    each = total_bytes // count if count and total_bytes else min((gpu.total_bytes for gpu in found), default=0)
    number = count or len(found)
    if not number or not each:
        return None
    return Accelerators(name or (found[0].name if found else "accelerator"), each, number)


def _existing(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    return next((each for each in (path, *path.parents) if each.exists()), Path("/"))
