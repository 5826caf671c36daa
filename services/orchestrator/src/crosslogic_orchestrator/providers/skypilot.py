"""Machines of the clouds that SkyPilot knows: one cluster of one machine for each.

A cluster's name is `cl-<installation>-<provider>-<machine>`: a launch that is repeated finds the first, and whatever
begins so and that no job knows of is ours to end.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from crosslogic_common.regions import RegionTable
from crosslogic_orchestrator.domain import Machine, MachineState, Spec
from crosslogic_orchestrator.ports import ProviderError

ANY_CLOUD = "sky"
_STATES = frozenset(get_args(MachineState))
_TOKEN = "CROSSLOGIC_JOIN_TOKEN"  # noqa: S105  # a name
_PICODOLLARS = 10**12

Ask = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyPilotSettings:
    """How machines are asked for."""

    installation: str
    """Tells this suite's machines from another's in the same account. 1 to 16 of a-z and 0-9."""
    clouds: Sequence[str]
    """Where `sky` may choose, in SkyPilot's words."""
    regions: RegionTable
    accelerators: str
    """For whoever names no machine type, for example `A10G:1`. Empty: they must."""
    setup: str
    """Shell commands that install the agent. The join token is in CROSSLOGIC_JOIN_TOKEN."""
    agent_environ: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """What is copied to the machine first: path there to path here."""
    secret_files: Mapping[str, str] = field(default_factory=dict)
    """More secrets: variable on the machine to the file here that holds it."""


class SkyPilotProvider:
    """See ports.Provider."""

    def __init__(self, name: str, settings: SkyPilotSettings, *, ask: Ask) -> None:
        """`name` is a cloud, or `sky` for whichever is cheapest. `ask` asks the worker."""
        self._name = name
        self._settings = settings
        self._ask = ask
        self._prefix = f"cl-{settings.installation}-{name}-"

    async def task_for(self, spec: Spec, name: str) -> str:
        """See ports.Provider. SkyPilot's own task, under a line that says where it expects to find the machine."""
        accelerators, instance_type = self._machine_of(spec)
        found = await self._ask(
            "prepare",
            {
                "name": self._prefix + name,
                "places": self._places(spec),
                "accelerators": accelerators,
                "instance_type": instance_type,
                "spot": spec.use_spot,
                "labels": {"crosslogic-installation": self._settings.installation, "crosslogic-machine": name},
                "envs": {
                    **self._settings.agent_environ,
                    "CROSSLOGIC_REGION": spec.region,
                    "CROSSLOGIC_MODEL": spec.model,
                },
                "files": dict(self._settings.files),
                "setup": self._settings.setup,
            },
        )
        return f"# Expected: {found['place']}, ${float(found['price_usd']):.4f} an hour\n{found['task']}"

    async def launch(self, *, name: str, task: str, join_token: str) -> None:
        """See ports.Provider."""
        secrets = {variable: _secret(path) for variable, path in self._settings.secret_files.items()}
        await self._ask(
            "launch", {"name": self._prefix + name, "task": task, "secrets": {**secrets, _TOKEN: join_token}}
        )

    async def find(self, name: str) -> Machine:
        """See ports.Provider."""
        found = await self._ask("find", {"name": self._prefix + name})
        state = found["state"]
        if state not in _STATES:
            raise ProviderError("SkyPilot's worker named a state that this release does not know.", temporary=True)
        return Machine(name, state, str(found["detail"]), round(float(found["price_usd"]) * _PICODOLLARS))

    async def delete(self, name: str) -> None:
        """See ports.Provider."""
        await self._ask("delete", {"name": self._prefix + name})

    async def machines(self) -> list[Machine]:
        """See ports.Provider."""
        found = await self._ask("list", {"prefix": self._prefix})
        return [Machine(str(each).removeprefix(self._prefix), "running") for each in found["names"]]

    def _machine_of(self, spec: Spec) -> tuple[str, str]:
        """Accelerators and machine type, of which one is empty."""
        asked = spec.instance_type or self._settings.accelerators
        if not asked:
            raise ProviderError(
                "Say what to launch in `instance_type`: a machine type of the cloud, or accelerators such as `A10G:1`.",
                temporary=False,
            )
        return (asked, "") if ":" in asked else ("", asked)

    def _places(self, spec: Spec) -> list[str]:
        """Where it may be, as SkyPilot names places; the cheapest is taken."""
        clouds = self._settings.clouds if self._name == ANY_CLOUD else (self._name,)
        places = [place for region in spec.region.split(",") for place in self._in_region(region.strip(), clouds)]
        if not places:
            raise ProviderError(
                f"The region table names no place in {spec.region} at {' or '.join(clouds)}.", temporary=False
            )
        return places

    def _in_region(self, name: str, clouds: Sequence[str]) -> list[str]:
        region = self._settings.regions.get(name)
        if region is None:
            # The operator's own word for a place, where they named the cloud too.
            return [f"{cloud}/{name}" for cloud in clouds]
        return [f"{cloud}/{region.clouds[cloud]}" for cloud in clouds if cloud in region.clouds]


def _secret(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ProviderError(f"A secret's file cannot be read: {error.strerror}.", temporary=True) from None
