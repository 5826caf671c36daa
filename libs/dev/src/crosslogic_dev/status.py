"""What runs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from crosslogic.orchestrator.v1 import orchestrator_pb2 as pb
from crosslogic_dev.certificates import OPERATOR, service_files
from crosslogic_dev.deployment import PROVIDER
from crosslogic_dev.machines import engine_pid, machines_here
from crosslogic_dev.operator_client import OperatorClient
from crosslogic_dev.plan import Plan
from crosslogic_dev.processes import ProcessTable, resident_bytes, started_at
from crosslogic_dev.run_dir import RunDir

_ANSWER_S = 3.0


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process."""

    name: str
    pid: int | None
    """None: it does not run."""
    port: int | None
    age_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """A machine that the orchestrator launched here."""

    name: str
    state: str
    """As the orchestrator says: `launching`, `active`, `terminating`. `unknown` while it says nothing."""
    model: str
    pid: int | None
    """Its agent. None: it does not run."""
    age_s: float
    memory_bytes: int
    """Of agent and engine together."""


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


def machine_statuses(run_dir: RunDir) -> list[MachineStatus]:
    """Machines whose agent runs, and those that the orchestrator has not ended."""
    running, known = machines_here(run_dir), _known(run_dir)
    rows = []
    for name in sorted(running.keys() | known.keys()):
        pid, instance = running.get(name), known.get(name)
        born = started_at(pid) if pid is not None else None
        processes = [each for each in (pid, engine_pid(run_dir, name)) if pid is not None and each is not None]
        rows.append(
            MachineStatus(
                name=name,
                state="unknown" if instance is None else _state(instance),
                model="" if instance is None else instance.spec.model,
                pid=pid,
                age_s=time.time() - born if born is not None else 0.0,
                memory_bytes=sum(map(resident_bytes, processes)),
            )
        )
    return rows


def machine_table(rows: list[MachineStatus]) -> str:
    """The same for people."""
    lines = [f"{'machine':<38}{'state':<13}{'model':<20}{'pid':>8}{'up':>10}{'memory':>11}"]
    for row in rows:
        start = f"{row.name:<38}{row.state:<13}{row.model:<20}"
        if row.pid is None:
            lines.append(f"{start}{'gone':>8}")
        else:
            lines.append(f"{start}{row.pid:>8}{row.age_s:>8.0f} s{row.memory_bytes / 2**20:>7.0f} MiB")
    return "\n".join(lines)


def missing_machines(run_dir: RunDir, rows: list[MachineStatus]) -> int:
    """How many of those that `make up` asked for do not serve."""
    plan = Plan.load(run_dir)
    if plan is None or not plan.machines:
        return 0
    return max(0, plan.nodes - sum(row.pid is not None and row.state in ("active", "unknown") for row in rows))


def _known(run_dir: RunDir) -> Mapping[str, pb.Instance]:
    """What the orchestrator knows of; nothing while it does not answer."""
    plan = Plan.load(run_dir)
    if plan is None or ProcessTable(run_dir).pid("orchestrator") is None:
        return {}
    with OperatorClient(service_files(run_dir.tls, OPERATOR)) as client:
        stub = client.machines(plan.target("orchestrator"))
        try:
            found = stub.ListInstances(pb.ListInstancesRequest(page_size=1_000), timeout=_ANSWER_S).instances
        except grpc.RpcError:
            return {}
        return {each.id: each for each in found if each.spec.provider == PROVIDER}


def _state(instance: pb.Instance) -> str:
    return pb.InstanceState.Name(instance.state).removeprefix("INSTANCE_STATE_").lower()
