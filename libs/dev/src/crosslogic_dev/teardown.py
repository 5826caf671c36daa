"""Stops a suite: whoever takes requests first, whoever keeps data last. The data stays."""

import fcntl
import signal

from crosslogic_dev import postgres
from crosslogic_dev.deployment import end_deployment
from crosslogic_dev.failure import DevError
from crosslogic_dev.machines import stop_machines
from crosslogic_dev.processes import ProcessTable, kill_left
from crosslogic_dev.progress import Progress
from crosslogic_dev.run_dir import RunDir
from crosslogic_dev.waiting import wait_until

# A service has CROSSLOGIC_SHUTDOWN_GRACE_S (20 s unless set) to finish what runs.
_GRACE_S = 30.0
_ORCHESTRATOR = "orchestrator"
_FIRST = ("gateway", _ORCHESTRATOR)


def take_down(run_dir: RunDir, progress: Progress, *, table: ProcessTable | None = None) -> int:
    """Stops every process of the run folder and returns how many ran. Raises DevError when one cannot be stopped.

    `table` is given by whoever started them in the same process.
    """
    if not run_dir.path.exists():
        return 0
    with (run_dir.path / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DevError("Another `make up` or `make down` is at work here: wait for it.") from None
        return _stop_all(table or ProcessTable(run_dir), progress, run_dir)


def end_at_once(run_dir: RunDir, table: ProcessTable) -> None:
    """Kills every process of a run folder that nobody needs any more. Raises DevError when one cannot be killed.

    Machines of the orchestrator and PostgreSQL are asked first: what they leave when they are killed outlives them.
    """
    table.stop([name for name in table.names() if name != postgres.NAME], number=signal.SIGKILL)
    stop_machines(run_dir, grace_s=_GRACE_S)
    table.stop([postgres.NAME], number=signal.SIGINT, grace_s=_GRACE_S)
    if not wait_until(lambda: kill_left(run_dir) == 0, timeout_s=_GRACE_S):
        raise DevError(f"Processes of {run_dir.path} cannot be killed: do they belong to another user?")


def _stop_all(table: ProcessTable, progress: Progress, run_dir: RunDir) -> int:
    names = table.names()
    # Whoever launches machines goes before them: it would launch others in their place.
    if table.pid(_ORCHESTRATOR) is not None and end_deployment(run_dir):
        progress("ended the deployment")
    stopped = _stop_group([name for name in names if name in _FIRST], table, progress)
    machines = stop_machines(run_dir, grace_s=_GRACE_S)
    if machines:
        progress(f"stopped {machines} machine{'s' if machines > 1 else ''} of the orchestrator")
    stopped += machines
    for group in _in_order([name for name in names if name not in _FIRST]):
        stopped += _stop_group(group, table, progress)
    left = kill_left(run_dir)
    if left:
        progress(f"killed {left} process{'es' if left > 1 else ''} that nobody knew of")
    return stopped + left


def _stop_group(group: list[str], table: ProcessTable, progress: Progress) -> int:
    running = [name for name in group if table.pid(name) is not None]
    # PostgreSQL waits for its clients on SIGTERM and disconnects them on SIGINT.
    number = signal.SIGINT if group == ["postgres"] else signal.SIGTERM
    table.stop(group, number=number, grace_s=_GRACE_S)
    left = [name for name in group if table.pid(name) is not None]
    if left:
        raise DevError(f"Could not stop {', '.join(left)}: do they belong to another user?")
    if running:
        progress(f"stopped {', '.join(running)}")
    return len(running)


def _in_order(names: list[str]) -> list[list[str]]:
    agents = [name for name in names if name.startswith("node_agent")]
    # Stopped by their agents; what is left here lost its agent.
    engines = [name for name in names if name.startswith("engine")]
    last = [["redis"], ["postgres"]]
    named = {"redis", "postgres", *agents, *engines}
    others = [name for name in names if name not in named]
    groups = [agents, engines, others, *last]
    return [[name for name in group if name in names] for group in groups if any(name in names for name in group)]
