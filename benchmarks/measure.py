"""CPU time and memory of processes, and what machine and interpreter they ran on."""

import os
import platform
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system seconds that the process and all its threads have used (fields 14 and 15 of its stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Resident memory of the process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def busy_share(before: Sequence[int], after: Sequence[int]) -> float:
    """Share of a core's time, 0 to 1, that somebody used between two `core_times`."""
    total = sum(after) - sum(before)
    idle = after[3] + after[4] - before[3] - before[4]
    return 1.0 - idle / total if total else 0.0


def core_times(core: int) -> tuple[int, ...]:
    """The core's ticks by kind since the machine started: user, nice, system, idle, waiting for disks and so on."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            return tuple(int(field) for field in line.split()[1:9])
    return (0,) * 8


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie; 0 when there are none."""
    if not sorted_values:
        return 0.0
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. On a machine with one core everything shares it, and figures of time mean little."""

    gateway: int | None
    others: int | None

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """The first core for the gateway, the second for everything else."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[1]) if len(cores) > 1 else cls(None, None)


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured on."""

    cpu: str
    cores: int
    python: str
    python_build: str
    kernel: str

    @classmethod
    def this(cls) -> "Machine":
        """This one."""
        arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
        optimised = [word for word in ("--enable-optimizations", "--with-lto") if word in arguments]
        build = (
            f"{platform.python_compiler()}, {' '.join(optimised) or 'without --enable-optimizations and --with-lto'}"
        )
        return cls(_cpu_name(), os.cpu_count() or 1, platform.python_version(), build, platform.release())

    def as_json(self) -> dict[str, object]:
        """For the results' file."""
        return asdict(self)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
