"""Processes that outlive the command which started them, known by their pid files."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crosslogic_common.os_process import start_ticks
from crosslogic_dev.failure import DevError
from crosslogic_dev.run_dir import RunDir

_POLL_S = 0.05
_CLOCK_SLACK_S = 2.0
_TAIL_BYTES = 4096
_TAIL_LINES = 8
RUN_DIR_MARK = "CROSSLOGIC_RUN_DIR"
"""In the environment of every process started here, and of their children: whose they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """How a process is started."""

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    uid: int | None = None
    """The user it runs as. None: whoever starts it."""


def started_at(pid: int) -> float | None:
    """When the process started, in seconds since 1970; None when it is gone or only waits to be buried."""
    ticks = start_ticks(pid)
    if ticks is None:
        return None
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + ticks / os.sysconf("SC_CLK_TCK")


class ProcessTable:
    """The processes of one run folder."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def names(self) -> list[str]:
        """Every process that has a pid file."""
        return sorted(file.stem for file in self._run_dir.path.glob("*.pid"))

    def pid(self, name: str) -> int | None:
        """Its number if it runs. A pid file whose number now belongs to a younger process counts as not running."""
        self._bury(name)
        file = self._run_dir.pid_file(name)
        try:
            pid = int(file.read_text())
            written_at = file.stat().st_mtime
        except (OSError, ValueError):
            return None
        born = started_at(pid)
        if born is None or born > written_at + _CLOCK_SLACK_S:
            return None
        return pid

    def start(self, spec: ProcessSpec) -> int:
        """Starts it in a session of its own, its output going to its log, and returns its number."""
        self._bury(spec.name)
        with self._run_dir.log_file(spec.name).open("ab") as log:
            try:
                child = subprocess.Popen(
                    spec.argv,
                    env={**spec.environ, RUN_DIR_MARK: str(self._run_dir.path)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    user=spec.uid,
                    cwd="/",
                )
            except OSError as error:
                raise DevError(f"{spec.name} cannot be started: {error}") from error
        self._children[spec.name] = child
        self._run_dir.pid_file(spec.name).write_text(f"{child.pid}\n")
        return child.pid

    def send(self, name: str, number: signal.Signals) -> bool:
        """Sends a signal; False when it does not run."""
        pid = self.pid(name)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def stop(self, names: Iterable[str], *, number: signal.Signals = signal.SIGTERM, grace_s: float = 30.0) -> None:
        """Asks all of them to end, waits up to `grace_s`, then kills what is left, with its process group."""
        names = list(names)
        for name in names:
            self.send(name, number)
        if not self._wait_gone(names, grace_s):
            for name in names:
                self._kill_group(name)
            self._wait_gone(names, 10.0)
        for name in names:
            if self.pid(name) is None:
                self._sweep(name)
                self._run_dir.pid_file(name).unlink(missing_ok=True)

    def tail(self, name: str, *, lines: int = _TAIL_LINES) -> str:
        """The last lines of its log."""
        return log_tail(self._run_dir.log_file(name), lines=lines)

    def _sweep(self, name: str) -> None:
        """Kills what a process that died without a word left behind in its session."""
        try:
            session = int(self._run_dir.pid_file(name).read_text())
        except (OSError, ValueError):
            return
        for pid in _marked(self._run_dir):
            with contextlib.suppress(OSError):
                if os.getsid(pid) == session:
                    os.kill(pid, signal.SIGKILL)

    def _wait_gone(self, names: Iterable[str], timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        while any(self.pid(name) is not None for name in names):
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_S)
        return True

    def _kill_group(self, name: str) -> None:
        pid = self.pid(name)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGKILL)

    def _bury(self, name: str) -> None:
        """A child of ours that ended is a zombie until somebody asks how."""
        child = self._children.get(name)
        # The state that `pid` goes by, not poll(): one that ended between the two would stay a zombie, whose number a
        # new PostgreSQL takes for another that runs.
        if child is not None and start_ticks(child.pid) is None:
            child.wait()
            del self._children[name]


def log_tail(file: Path, *, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log; nothing when there is none."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def kill_left(run_dir: RunDir) -> int:
    """Kills whatever still runs of a run folder, by the mark that all its processes bear. Returns how many."""
    left = [pid for pid in _marked(run_dir) if pid != os.getpid()]
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def _marked(run_dir: RunDir) -> Iterator[int]:
    mark = f"{RUN_DIR_MARK}={run_dir.path}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


def resident_bytes(pid: int) -> int:
    """Memory of a process; 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
