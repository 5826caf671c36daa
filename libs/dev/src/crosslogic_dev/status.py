"""What runs."""

import time
from dataclasses import dataclass

from crosslogic_dev.plan import Plan
from crosslogic_dev.processes import ProcessTable, resident_bytes, started_at
from crosslogic_dev.run_dir import RunDir


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process."""

    name: str
    pid: int | None
    """None: it does not run."""
    port: int | None
    age_s: float
    memory_bytes: int


def statuses(run_dir: RunDir) -> list[ProcessStatus]:
    """Every process that runs or should: those with a pid file, and those of the plan."""
    table = ProcessTable(run_dir)
    names = table.names()
    if not names:
        return []
    plan = Plan.load(run_dir)
    ports = plan.ports if plan is not None else {}
    rows = []
    for name in names:
        pid = table.pid(name)
        born = started_at(pid) if pid is not None else None
        age_s = time.time() - born if born is not None else 0.0
        rows.append(ProcessStatus(name, pid, ports.get(name), age_s, resident_bytes(pid) if pid is not None else 0))
    return rows


def status_table(rows: list[ProcessStatus]) -> str:
    """The same for people."""
    lines = [f"{'process':<16}{'state':<10}{'pid':>8}{'port':>7}{'up':>10}{'memory':>11}"]
    for row in rows:
        if row.pid is None:
            lines.append(f"{row.name:<16}{'stopped':<10}")
        else:
            lines.append(
                f"{row.name:<16}{'running':<10}{row.pid:>8}{row.port or '':>7}"
                f"{row.age_s:>8.0f} s{row.memory_bytes / 2**20:>7.0f} MiB"
            )
    return "\n".join(lines)
