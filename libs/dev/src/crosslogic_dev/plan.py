"""What a suite on this machine consists of: decided once, kept in the run folder, and not changed under way."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, Self, get_args

from crosslogic_dev.failure import DevError
from crosslogic_dev.ports import HOST, MAX_NODES
from crosslogic_dev.run_dir import RunDir, write_private

EngineKind = Literal["vllm", "sim"]
ENGINE_KINDS: tuple[EngineKind, ...] = get_args(EngineKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Engine, model, nodes and ports, and what was seeded."""

    engine: EngineKind
    model: str
    """What was asked for: a hub id, a path, or empty for the engine's own little model."""
    nodes: int
    ports: Mapping[str, int] = field(default_factory=dict)
    tunnel: bool = False
    """Nodes dial the gateway and listen nowhere, as behind NAT."""
    machines: bool = False
    """The orchestrator launches the nodes, by a deployment. Otherwise they are processes of this suite, by number."""
    deployment_id: str = ""
    """The deployment that was asked for."""
    org_id: str = ""
    environment_id: str = ""

    def target(self, name: str) -> str:
        """host:port of a process."""
        return f"{HOST}:{self.ports[name]}"

    @property
    def base_url(self) -> str:
        """Where clients reach the gateway."""
        return f"http://{self.target('gateway')}"

    @property
    def node_numbers(self) -> range:
        """Of the nodes that this suite starts itself: 1 to their number."""
        return range(1, self.numbered_nodes + 1)

    @property
    def numbered_nodes(self) -> int:
        """How many nodes this suite starts itself, on ports that are planned."""
        return 0 if self.machines else self.nodes

    def with_ports(self, ports: Mapping[str, int]) -> Self:
        """The same on these ports."""
        return replace(self, ports=dict(ports))

    def save(self, run_dir: RunDir) -> None:
        """Keeps it for the next command."""
        write_private(run_dir.plan_file, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, run_dir: RunDir) -> Self | None:
        """The plan of before; None when there is none that can be read."""
        try:
            value = json.loads(run_dir.plan_file.read_text())
            return cls(**value)
        except (OSError, ValueError, TypeError):
            return None


def decide(
    *,
    known: Plan | None,
    running: bool,
    engine: str | None,
    model: str | None,
    nodes: int | None,
    tunnel: bool | None = None,
    machines: bool = False,
) -> Plan:
    """The plan for what was asked; what was not asked for stays as it runs, or is vLLM, its little model and one node.

    Raises DevError for a wish that cannot be met, also one that contradicts what runs already. Who starts the
    nodes (`machines`) stays as it is while something runs.
    """
    if engine is not None and engine not in ENGINE_KINDS:
        raise DevError(f"ENGINE must be one of {', '.join(ENGINE_KINDS)}, not {engine!r}.")
    if nodes is not None and not 1 <= nodes <= MAX_NODES:
        raise DevError(f"NODES must be 1 to {MAX_NODES}, not {nodes}.")
    if known is not None and running:
        wishes = {"ENGINE": (engine, known.engine), "MODEL": (model, known.model)}
        for name, (asked, is_now) in wishes.items():
            if asked is not None and asked != is_now:
                raise DevError(f"The suite runs with {name}={is_now or 'the default'}: run `make down` first.")
        if tunnel is not None and tunnel != known.tunnel:
            raise DevError(f"The suite runs with TUNNEL={known.tunnel:d}: run `make down` first.")
        if nodes is not None and nodes < known.nodes:
            raise DevError(f"The suite runs with NODES={known.nodes}: run `make down` first to have fewer.")
        return replace(known, nodes=nodes or known.nodes)
    return Plan(
        engine=engine or "vllm",
        model=model or "",
        nodes=nodes or 1,
        tunnel=bool(tunnel),
        machines=machines,
        deployment_id=known.deployment_id if known is not None else "",
        ports=dict(known.ports) if known is not None else {},
        org_id=known.org_id if known is not None else "",
        environment_id=known.environment_id if known is not None else "",
    )
