"""Machines that are always there, in racks of one's own: claimed, given an agent over SSH, and given back.

The operator's file lists them; who has which is in the database. A claim is held until its agent is stopped, not until
some time has passed: a machine that is only slow must not be given to a second job. Only a claim whose agent was never
started runs out, for whoever made it may have died.
"""

import asyncio
import json
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

from crosslogic_common.clock import Clock
from crosslogic_common.logs import get_logger
from crosslogic_orchestrator.domain import ABSENT, Machine, Spec
from crosslogic_orchestrator.ports import ProviderError
from crosslogic_orchestrator.providers.static_claims import Claim, Claims
from crosslogic_orchestrator.providers.static_reach import reach

MAX_MACHINES = 10_000
_UNSTARTED_S = 900.0
"""Longer than any launch takes (worker.py): after it a claim without an agent is nobody's."""
_START_S = 300.0
"""An agent's start installs it first."""
_LOOK_S = 90.0
"""A look or an end; longer than it waits there for another that is at it."""
_AT_ONCE = 8
_DESTINATION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,252}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMachine:
    """A machine of the pool."""

    name: str
    ssh: str
    """Where ssh finds it: host, user@host, or a name of ssh's own configuration."""
    region: str
    instance_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSettings:
    """The pool, and how its machines are reached."""

    machines: Sequence[PoolMachine]
    ssh: Sequence[str]
    """The command; the destination and `sh -s` follow."""
    agent_script: str
    """Shell functions agent_start, agent_stop and agent_active."""
    agent_environ: Mapping[str, str] = field(default_factory=dict)


def pool_file(text: str) -> tuple[PoolMachine, ...]:
    """The machines of a TOML file: `[[machine]]` with name, ssh, region, instance_type. Empty: none.

    Raises ValueError that says what to change.
    """
    if not text:
        return ()
    try:
        rows = tomllib.loads(Path(text).read_text(encoding="utf-8")).get("machine", [])
        machines = tuple(PoolMachine(**row) for row in rows)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"is no pool of machines: {error}") from None
    if len({each.name for each in machines}) < len(machines) or len(machines) > MAX_MACHINES:
        raise ValueError(f"must name at most {MAX_MACHINES} machines, each once")
    for each in machines:
        if not _NAME.fullmatch(str(each.name)) or not _DESTINATION.fullmatch(str(each.ssh)) or not each.region:
            raise ValueError(f"machine {each.name!r}: name, ssh or region is missing or has strange characters")
    return machines


def default_agent_script() -> str:
    """For machines with systemd and the agent's installer."""
    return files("crosslogic_orchestrator.providers").joinpath("static_agent.sh").read_text(encoding="utf-8")


class StaticProvider:
    """See ports.Provider."""

    def __init__(self, settings: StaticSettings, *, claims: Claims, clock: Clock) -> None:
        self._settings = settings
        self._claims = claims
        self._clock = clock
        self._machines = {machine.name: machine for machine in settings.machines}
        self._assign = files("crosslogic_orchestrator.providers").joinpath("static_assign.sh").read_text("utf-8")
        self._reaching = asyncio.Semaphore(_AT_ONCE)
        self._log = get_logger(__name__)

    async def task_for(self, spec: Spec, name: str) -> str:
        """See ports.Provider."""
        if spec.use_spot:
            raise ProviderError("Machines of `static` are never taken away: ask without `use_spot`.", temporary=False)
        asked = {"name": name, "model": spec.model, "region": spec.region, "instance_type": spec.instance_type}
        if not self._fitting(asked):
            raise ProviderError(
                f"The pool has no machine {spec.instance_type} in {spec.region}.".replace("  ", " "), temporary=False
            )
        return json.dumps(asked, sort_keys=True)

    async def launch(self, *, name: str, task: str, join_token: str) -> None:
        """See ports.Provider."""
        asked = json.loads(task)
        claim = await self._claims.claim(name, self._fitting(asked), now=self._clock.now())
        if claim is None:
            raise ProviderError(
                f"Every machine of the pool in {asked['region']} that fits is taken. End one, or add one.",
                temporary=False,
            )
        if claim.released or claim.started:
            return
        environ = {"CROSSLOGIC_MODEL": asked["model"], "CROSSLOGIC_REGION": asked["region"]}
        try:
            said = await self._reach(claim, "start", environ=environ, token=join_token)
        except ProviderError as error:
            # Not tried again and again: the next launch gets another machine.
            raise ProviderError(str(error), temporary=False) from None
        if said.startswith("busy"):
            raise ProviderError(
                f"Machine {claim.machine} still has the agent of {said.removeprefix('busy ')[:36]}.", temporary=True
            )
        await self._claims.start(name, now=self._clock.now())

    async def find(self, name: str) -> Machine:
        """See ports.Provider."""
        claim = await self._claims.get(name)
        if claim is None:
            return ABSENT
        if claim.released:
            return Machine(name, "gone", "it was given back")
        machine = await self._look(claim)
        # An agent that runs was started by somebody who died before they could note it.
        return machine if claim.started or machine.state == "running" else ABSENT

    async def delete(self, name: str) -> None:
        """See ports.Provider."""
        claim = await self._claims.get(name)
        if claim is not None and not claim.released:
            await self._give_back(claim)

    async def machines(self) -> list[Machine]:
        """See ports.Provider. Claims that hold nothing any more are given back on the way."""
        claims = await self._claims.held()
        found = await asyncio.gather(*map(self._swept, claims))
        return [machine for machine in found if machine.state in ("running", "pending")]

    async def _swept(self, claim: Claim) -> Machine:
        if claim.started:
            machine = await self._look(claim)
        else:
            old = claim.claimed_at + timedelta(seconds=_UNSTARTED_S) < self._clock.now()
            machine = Machine(claim.instance_id, "gone" if old else "absent")
        if machine.state == "gone":
            try:
                await self._give_back(claim)
            except ProviderError as error:
                self._log.warning("not given back", machine=claim.machine, reason=str(error))
        return machine

    async def _look(self, claim: Claim) -> Machine:
        try:
            said = await self._reach(claim, "look")
        except ProviderError as error:
            # Nobody knows whether its agent runs: it stays claimed, and whoever waits for it sees why.
            return Machine(claim.instance_id, "pending", str(error))
        if said == "running":
            return Machine(claim.instance_id, "running", f"on {claim.machine}")
        return Machine(claim.instance_id, "gone", f"its agent does not run on {claim.machine} any more")

    async def _give_back(self, claim: Claim) -> None:
        if claim.machine in self._machines:
            await self._reach(claim, "stop")
        # What the operator took out of the file is theirs to clean.
        await self._claims.release(claim.instance_id, now=self._clock.now())

    def _fitting(self, asked: Mapping[str, str]) -> list[str]:
        kind = asked["instance_type"]
        return [
            machine.name
            for machine in self._settings.machines
            if machine.region == asked["region"] and kind in ("", machine.instance_type, machine.name)
        ]

    async def _reach(
        self, claim: Claim, want: str, *, environ: Mapping[str, str] | None = None, token: str = ""
    ) -> str:
        """What the machine says. Everything goes over standard input: an argument would be seen by others there."""
        machine = self._machines.get(claim.machine)
        if machine is None:
            raise ProviderError(f"Machine {claim.machine} is not in the pool's file any more.", temporary=True)
        values = {**self._settings.agent_environ, **(environ or {})}
        lines = [f"export {key}={shlex.quote(value)}" for key, value in values.items()]
        lines += [f"want={want}", f"machine={shlex.quote(claim.instance_id)}", f"token={shlex.quote(token)}"]
        script = "\n".join([*lines, self._settings.agent_script, self._assign])
        limit_s = _START_S if want == "start" else _LOOK_S
        async with self._reaching:
            said = await reach(self._settings.ssh, machine.ssh, script, machine=claim.machine, limit_s=limit_s)
        answer = said.strip().splitlines()[-1] if said.strip() else ""
        if answer.split(" ")[0] not in ("running", "none", "busy"):
            raise ProviderError(f"Machine {claim.machine} does not say what its agent does.", temporary=True)
        return answer
