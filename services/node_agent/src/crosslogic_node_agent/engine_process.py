"""One run of the engine's process, under a guard."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MARK_VARIABLE = "CROSSLOGIC_ENGINE_MARK"
"""In the environment of the engine and all its descendants: how an engine that lost its agent is recognised."""
_GUARD = Path(__file__).with_name("guard.py")
_MAX_STATUS_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """How the engine is started."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    """Added to the agent's own, less what the agent keeps secret."""
    log_file: Path
    pid_file: Path
    mark: str
    """Unique to this agent's state directory."""


class EngineProcess:
    """A started engine. Its guard leads a session of its own, so that signals to the agent's group pass it by."""

    def __init__(self, guard: "subprocess.Popen[bytes]", status: asyncio.StreamReader, status_file: IO[bytes]) -> None:
        self._guard = guard
        self._status = status
        self._status_file = status_file
        self.pid = 0
        """The engine's, once it runs."""
        self.exit_code: int | None = None
        """Negative: the signal that ended it. None: it runs, or how it ended is not known."""
        self.exited = asyncio.Event()

    @classmethod
    async def start(cls, command: EngineCommand) -> "EngineProcess":
        """Starts the engine. Raises OSError when not even its guard can be started."""
        read_fd, write_fd = os.pipe()
        status_file = os.fdopen(read_fd, "rb", buffering=0)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("CROSSLOGIC_JOIN_TOKEN")
        }
        environment |= {**command.environment, MARK_VARIABLE: command.mark}
        try:
            with command.log_file.open("ab") as log:
                guard = subprocess.Popen(  # noqa: ASYNC220, S603  # returns at once; the operator's own command
                    [sys.executable, "-I", "-S", _GUARD, str(write_fd), command.pid_file, *command.arguments],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=(write_fd,),
                    start_new_session=True,
                )
        except BaseException:
            status_file.close()
            raise
        finally:
            os.close(write_fd)
        reader = asyncio.StreamReader(limit=_MAX_STATUS_BYTES)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), status_file)
        return cls(guard, reader, status_file)

    async def watch(self) -> None:
        """Follows the engine until it has ended."""
        while line := await self._status.readline():
            with contextlib.suppress(ValueError):
                facts = json.loads(line)
                self.pid = facts.get("pid", self.pid)
                self.exit_code = facts.get("exit_code", self.exit_code)
        self.signal_group(signal.SIGKILL)
        # It has been told to end, or has said its last word: this takes no time to speak of.
        await asyncio.to_thread(self._guard.wait)
        self._status_file.close()
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        self.exited.set()

    def signal_group(self, number: signal.Signals) -> None:
        """Signals the engine and all its processes, if the group is still there."""
        # The guard's pid cannot have been given to another while we have not waited for it.
        if self._guard.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._guard.pid, number)

    def describe_exit(self) -> str:
        """How it ended, for people."""
        if self.exit_code is None:
            return "it was killed together with its guard"
        if self.exit_code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-self.exit_code).name}"
        return f"exit code {self.exit_code}"


def marked_processes(mark: str) -> list[int]:
    """Pids of live processes that carry the mark: an engine, its guard and its descendants."""
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


async def kill_marked(mark: str, *, wait_s: float = 5.0) -> int:
    """Kills what an earlier agent with this mark left behind; returns how many. Raises TimeoutError if some stay."""
    killed: set[int] = set()
    async with asyncio.timeout(wait_s):
        while pids := marked_processes(mark):
            for pid in pids:
                killed.add(pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.02)
    return len(killed)


def last_lines(log_file: Path, since_byte: int, *, max_chars: int = 300) -> str:
    """The end of what the engine logged since `since_byte`, on one line: most often why it died."""
    try:
        with log_file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since_byte, size - 4096))
            text = file.read(4096).decode("utf-8", "replace")
    except OSError:
        return ""
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-max_chars:]
