"""A pool of static machines that are folders of this one; an agent is a process that notes whose it is."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from crosslogic_common.postgres import Pool as Connections
from crosslogic_common.postgres import migrate, open_pool, transaction
from crosslogic_orchestrator.domain import Spec
from crosslogic_orchestrator.providers.static import PoolMachine, StaticProvider, StaticSettings
from crosslogic_orchestrator.providers.static_claims import PostgresClaims
from crosslogic_orchestrator.store import SCHEMA

# Where no SSH is wanted: a program that runs the script in the folder that its destination names.
SSH = """#!/bin/sh
echo "$@" >> {folder}/ssh.log
[ -e {folder}/away ] && exit 255
export CROSSLOGIC_STATIC_ROOT={folder}/$1
exec sh -s
"""
# An agent is a process that notes whose it is.
AGENT = """
agent_start() {
  mkdir -p "$CROSSLOGIC_STATIC_ROOT"
  cp "$1" "$CROSSLOGIC_STATIC_ROOT/token-of-$machine"
  setsid sleep 600 &
  echo $! > "$CROSSLOGIC_STATIC_ROOT/pid"
  echo "$machine $!" >> "$CROSSLOGIC_STATIC_ROOT/started"
}
agent_stop() { kill "$(cat "$CROSSLOGIC_STATIC_ROOT/pid")" || true; }
agent_active() { kill -0 "$(cat "$CROSSLOGIC_STATIC_ROOT/pid")"; }
"""


class TestClock:
    """A clock that the test moves."""

    __test__ = False

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


class StaticPool:
    """Machines in a folder."""

    spec = Spec(model="llama", provider="static", region="on-prem")
    impossible = Spec(model="llama", provider="static", region="elsewhere")

    def __init__(
        self,
        folder: Path,
        connections: Connections,
        *,
        machines: int,
        ssh: Sequence[str] = (),
        host: str = "",
        agent: str = AGENT,
    ) -> None:
        """Without `ssh` and `host`, machines are reached by a program that runs what is sent to them."""
        self.folder = folder
        self.ssh = ssh or [str(self._program())]
        self.clock = TestClock()
        settings = StaticSettings(
            machines=[
                PoolMachine(name=f"rack-{number}", ssh=f"gpu{number}{host}", region="on-prem", instance_type="h100")
                for number in range(machines)
            ],
            ssh=self.ssh,
            agent_script=agent,
        )
        self.claims = PostgresClaims(connections)
        self.provider = StaticProvider(settings, claims=self.claims, clock=self.clock)

    def begun(self, name: str) -> int:
        return sum(alive(pid) for owner, pid in self.started() if owner == name)

    def take_away(self, name: str) -> None:
        for owner, pid in self.started():
            if owner == name and alive(pid):
                os.kill(pid, signal.SIGKILL)

    def started(self) -> list[tuple[str, int]]:
        lines = [line.split() for file in self.folder.rglob("started") for line in file.read_text().splitlines()]
        return [(owner, int(pid)) for owner, pid in lines]

    def end_all(self) -> None:
        for _, pid in self.started():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)

    def _program(self) -> Path:
        program = self.folder / "ssh"
        program.write_text(SSH.format(folder=self.folder))
        program.chmod(0o700)
        return program


@contextlib.asynccontextmanager
async def no_claims(pg_url: str) -> AsyncIterator[Connections]:
    """The orchestrator's database, in which no machine is claimed."""
    await migrate(pg_url, schema=SCHEMA, migrations=files("crosslogic_orchestrator.migrations"))
    async with open_pool(pg_url, schema=SCHEMA, max_size=8) as pool:
        async with transaction(pool) as connection:
            await connection.execute("DELETE FROM static_claims")
        yield pool


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
