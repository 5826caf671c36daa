"""The machines that the suite's orchestrator started here: they outlive it, and `make down` ends them."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

from crosslogic_common.os_process import start_ticks
from crosslogic_dev.run_dir import RunDir

_POLL_S = 0.05


def machines_here(run_dir: RunDir) -> dict[str, int]:
    """The machines whose agent runs, by name, with its process."""
    return {folder.name: pid for folder in _folders(run_dir) if (pid := _pid(folder)) is not None}


def engine_pid(run_dir: RunDir, machine: str) -> int | None:
    """The engine's process, as its agent noted it."""
    try:
        return int((run_dir.machines / machine / "state" / "engine.pid").read_text())
    except (OSError, ValueError):
        return None


def forget_machines(run_dir: RunDir) -> None:
    """Removes what ended machines left. Only while no orchestrator runs: it would take one on its way for ended."""
    running = machines_here(run_dir)
    for folder in _folders(run_dir):
        if folder.name not in running:
            shutil.rmtree(folder, ignore_errors=True)


def stop_machines(run_dir: RunDir, *, grace_s: float) -> int:
    """Ends every agent with its engine: asked first, killed after `grace_s`. Returns how many ran."""
    running = machines_here(run_dir)
    for pid in running.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + grace_s
    for name, pid in running.items():
        folder = run_dir.machines / name
        while _pid(folder) is not None and time.monotonic() < until:
            time.sleep(_POLL_S)
        if _pid(folder) is not None:
            _kill(folder, pid)
    return len(running)


def _folders(run_dir: RunDir) -> list[Path]:
    return sorted(run_dir.machines.iterdir()) if run_dir.machines.is_dir() else []


def _pid(folder: Path) -> int | None:
    """The agent's process, if it runs: a number alone may be somebody else's by now."""
    try:
        pid, _, started = (folder / "pid").read_text().partition(" ")
    except OSError:
        return None
    return int(pid) if pid.isdigit() and str(start_ticks(pid)) == started else None


def _kill(folder: Path, pid: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((folder / "state/engine.pid").read_text()), signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
