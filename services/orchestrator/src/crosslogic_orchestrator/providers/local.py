"""Machines that are processes on this one: an agent each, with the engine that it starts.

What is known of them lies in a folder, so that an orchestrator that was killed finds them again:

    <folder>/<name>/task.json   what was asked for
                    ports       those of its engine and its agent
                    pid         the agent's process and when it started: a pid alone may be somebody else's by now
                    lock        held by the agent, so that there is never a second
                    deleting    when the agent was told to end
                    ended       it is gone, and a launch that comes late must not bring it back

Several orchestrators may share the folder: who gives a place or ports holds `<folder>/launching` meanwhile.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crosslogic_common.logs import get_logger
from crosslogic_common.os_process import start_ticks
from crosslogic_orchestrator.domain import ABSENT, Machine, Spec, in_words
from crosslogic_orchestrator.ports import ProviderError

_GRACE_S = 15.0
_START_S = 20.0
_PORT_WORD = "{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """How agents are started here."""

    folder: Path
    agent_environ: Mapping[str, str]
    """Settings of every agent: the registry's address, what to trust, how its engine is started. `{port}` in
    CROSSLOGIC_ENGINE_COMMAND and CROSSLOGIC_ENGINE_URL is the engine's own port."""
    max_machines: int = 16
    """Of all orchestrators that share the folder together."""


class LocalProvider:
    """See ports.Provider."""

    def __init__(self, settings: LocalSettings, *, free_port: Callable[[], int], turn_s: float = 10.0) -> None:
        """`free_port` finds a port that nobody listens on; `turn_s` is how long a launch waits for another's count."""
        self._settings = settings
        self._turn_s = turn_s
        self._free_port = free_port
        self._children: set[int] = set()
        self._log = get_logger(__name__)

    async def task_for(self, spec: Spec, name: str) -> str:
        """See ports.Provider."""
        if spec.use_spot:
            raise ProviderError("Machines of `local` are never taken away: ask without `use_spot`.", temporary=False)
        return json.dumps({"name": name, "model": spec.model, "region": spec.region}, sort_keys=True)

    async def launch(self, *, name: str, task: str, join_token: str) -> None:
        """See ports.Provider."""
        folder = self._settings.folder / name
        async with self._turn():
            if self._ended(name) or self._pid(folder) is not None:
                return
            others = self._begun() - {name}
            if len(others) >= self._settings.max_machines:
                raise ProviderError(
                    f"There are {len(others)} machines here already, and CROSSLOGIC_LOCAL_MAX_MACHINES allows no more.",
                    temporary=False,
                )
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / "task.json").write_text(task)
            token = folder / "join_token"
            token.touch(mode=0o600)
            token.write_text(join_token)
            ports = self._ports_for(folder)
        await self._start(folder, json.loads(task), *ports)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One launch at a time, of all orchestrators that share the folder: two that count at once both find room."""
        self._settings.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        with (self._settings.folder / "launching").open("ab") as lock:
            try:
                async with asyncio.timeout(self._turn_s):
                    while not _locked(lock.fileno()):
                        await asyncio.sleep(0.02)
            except TimeoutError:
                words = f"Somebody else has been launching in {self._settings.folder} for {self._turn_s:g} s."
                raise ProviderError(words, temporary=True) from None
            yield

    def _begun(self) -> set[str]:
        """Machines that run, or that somebody is about to start."""
        return {
            folder.name
            for folder in self._folders()
            if not self._ended(folder.name) and (self._pid(folder) is not None or not (folder / "pid").exists())
        }

    def _folders(self) -> list[Path]:
        place = self._settings.folder
        return [each for each in place.iterdir() if each.is_dir()] if place.is_dir() else []

    def _ports_for(self, folder: Path) -> tuple[int, int]:
        """Two that nobody listens on and that no other machine was given: they are bound only seconds later.

        A launch that is repeated has those of the first, whose agent may be about to start.
        """
        known = _ports_in(folder)
        if len(known) == 2:  # noqa: PLR2004  # an engine's and an agent's
            return known[0], known[1]
        given = {port for name in self._begun() for port in _ports_in(self._settings.folder / name)}

        def another() -> int:
            while (port := self._free_port()) in given:
                pass
            given.add(port)
            return port

        found = another(), another()
        (folder / "ports").write_text(" ".join(map(str, found)))
        return found

    async def _start(self, folder: Path, task: Mapping[str, str], engine_port: int, agent_port: int) -> None:
        environ = {
            **self._settings.agent_environ,
            "CROSSLOGIC_LISTEN": f"127.0.0.1:{agent_port}",
            "CROSSLOGIC_ADVERTISE": f"127.0.0.1:{agent_port}",
            "CROSSLOGIC_JOIN_TOKEN_FILE": str(folder / "join_token"),
            "CROSSLOGIC_STATE_DIR": str(folder / "state"),
            "CROSSLOGIC_REGION": task["region"],
            "CROSSLOGIC_MODEL": task["model"],
        }
        environ = {key: value.replace(_PORT_WORD, str(engine_port)) for key, value in environ.items()}
        child = _spawn(folder, environ)
        status: int | None = None
        try:
            async with asyncio.timeout(_START_S):
                # One that ends well found another that is about to become the agent, or that the machine was ended.
                while self._pid(folder) != child and not status:
                    if self._ended(folder.name):
                        return
                    status = _exit_status(child) if status is None else status
                    if status is not None and (folder / "pid").exists():
                        break
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass
        finally:
            self._children |= {child} if status is None else set()
        if not (folder / "pid").exists():
            raise ProviderError(f"The agent did not start: {_last_line(folder / 'agent.log')}", temporary=True)
        self._log.info("agent started", machine=folder.name, pid=child)

    async def find(self, name: str) -> Machine:
        """See ports.Provider."""
        folder = self._settings.folder / name
        if not folder.is_dir():
            return ABSENT
        if self._ended(name):
            return Machine(name, "gone", "it was ended")
        pid = self._pid(folder)
        if pid is None:
            if (folder / "pid").exists():
                return Machine(name, "gone", f"its agent ended, and had said last: {_last_line(folder / 'agent.log')}")
            return ABSENT
        return Machine(name, "running", "its agent runs")

    async def delete(self, name: str) -> None:
        """See ports.Provider."""
        folder = self._settings.folder / name
        if not folder.is_dir():
            # A launch that is under way elsewhere finds this and leaves it.
            folder.mkdir(parents=True, mode=0o700)
        pid = self._pid(folder)
        if pid is None:
            self._kill_engine(folder)
            (folder / "ended").touch()
            late = self._pid(folder)
            if late is not None:
                # It became the agent between the two looks, and had not seen that the machine is ended.
                _kill_group(late)
            shutil.rmtree(folder / "state", ignore_errors=True)
            (folder / "join_token").unlink(missing_ok=True)
            return
        told = folder / "deleting"
        if not told.exists():
            told.touch()
            # Another orchestrator may have ended it just now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        elif time.time() - told.stat().st_mtime > _GRACE_S:
            self._kill_engine(folder)
            _kill_group(pid)

    async def machines(self) -> list[Machine]:
        """See ports.Provider."""
        self._bury()
        found = [await self.find(folder.name) for folder in self._folders()]
        return [machine for machine in found if machine.state == "running"]

    def _bury(self) -> None:
        """A child that ended is a zombie until somebody asks how."""
        self._children = {child for child in self._children if _exit_status(child) is None}

    def _ended(self, name: str) -> bool:
        return (self._settings.folder / name / "ended").exists()

    def _pid(self, folder: Path) -> int | None:
        """The agent's process, if it runs."""
        try:
            pid, _, started = (folder / "pid").read_text().partition(" ")
        except OSError:
            return None
        return int(pid) if str(start_ticks(int(pid))) == started else None

    def _kill_engine(self, folder: Path) -> None:
        """An agent that is killed cannot end its engine."""
        try:
            os.kill(int((folder / "state/engine.pid").read_text()), signal.SIGKILL)
        except (OSError, ValueError):
            return


def _locked(file: int) -> bool:
    """Whether the lock is ours now. It ends with the file, or with us."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _ports_in(folder: Path) -> list[int]:
    try:
        return [int(port) for port in (folder / "ports").read_text().split()]
    except OSError:
        return []


def _spawn(folder: Path, environ: Mapping[str, str]) -> int:
    """Starts what becomes the agent, in a session of its own: it outlives this process, as a machine would."""
    command = [sys.executable, "-m", "crosslogic_orchestrator.providers.local_start", str(folder)]
    with (folder / "agent.log").open("ab") as log, Path(os.devnull).open("rb") as nothing:
        streams = [(nothing, 0), (log, 1), (log, 2)]
        # Not by the event loop: uvloop forks, and gRPC, whose threads are busy, then now and then aborts the child.
        return os.posix_spawn(
            sys.executable,
            command,
            environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, stream.fileno(), number) for stream, number in streams],
            setsid=True,
        )


def _exit_status(child: int) -> int | None:
    """How a child ended, 0 for well. None: it runs."""
    try:
        ended, status = os.waitpid(child, os.WNOHANG)
    except ChildProcessError:
        return 0
    return status if ended else None


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "it left no log"
    return in_words(lines[-1])[:500] if lines else "it said nothing"
