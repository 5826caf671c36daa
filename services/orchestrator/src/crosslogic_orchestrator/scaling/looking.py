"""Puts together what is known of a deployment: its machines, the registry's nodes, prices, what neighbours told."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from crosslogic_orchestrator.dead_nodes import mostly_dead
from crosslogic_orchestrator.scaling.domain import IDLE, Deployment, History, Member, Phase, Point, Snapshot
from crosslogic_orchestrator.scaling.forecast import Pattern
from crosslogic_orchestrator.scaling.observing import FleetSignals, NodeSample
from crosslogic_orchestrator.scaling.placement import Kind, Question, offers_of
from crosslogic_orchestrator.scaling.records import NO_ATTEMPTS, Attempts, Kept, Machine, World
from crosslogic_orchestrator.scaling.sources import Sold

DEFAULT_START_S = 120.0
_HINT_TOKENS = 256.0
FREE_PROVIDERS = ("local", "static")
"""Their machines are there already, and no catalogue prices them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What can be launched."""

    kinds: tuple[Kind, ...]
    """Of the catalogue, providers that are not configured left out."""
    providers: frozenset[str]
    """Those that are configured."""

    def of(self, deployment: Deployment) -> tuple[Kind, ...]:
        """With what needs no catalogue."""
        free = [
            Kind(
                provider=name,
                region=deployment.region,
                instance_type="",
                gpu="",
                gpu_count=0,
                vram_bytes=0,
                on_demand_picodollars=0,
                spot_picodollars=None,
            )
            for name in FREE_PROVIDERS
            # Nobody launches in no region: without one the catalogue must name it.
            if name in self.providers and deployment.region
        ]
        return (*free, *(kind for kind in self.kinds if kind.provider in self.providers))


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a machine of a deployment was last seen to do."""

    tokens_per_s: float = 0.0
    max_sequences: int = 0


def look(
    kept: Kept,
    world: World,
    signals: FleetSignals,
    prices: Prices,
    *,
    sold: Sold,
    pattern: Pattern,
    capacity: Capacity,
    now: datetime,
) -> Snapshot:
    """What is known now. Raises UNAVAILABLE while nothing is known of the fleet."""
    deployment = kept.deployment
    attempts = world.attempts.get(deployment.id, NO_ATTEMPTS)
    machines = [machine for machine in world.machines if machine.deployment_id == deployment.id]
    silent = _mostly_silent(world.machines, signals)
    members = [*_own(machines, signals, silent=silent), *_others(deployment, world.machines, signals, now=now)]
    start_s = attempts.start_s or DEFAULT_START_S
    counts: dict[str, int] = {}
    for member in members:
        counts[member.place] = counts.get(member.place, 0) + 1
    question = Question(
        constraints=deployment.constraints,
        strategy=deployment.strategy,
        region=deployment.region,
        start_s=start_s,
        lived=world.lived,
        failing=attempts.failing_places,
        counts=counts,
    )
    return Snapshot(
        now=now,
        members=tuple(members),
        held_requests=world.waiting.get(deployment.id, 0),
        reserved_tokens_per_s=sold.of(deployment.model, deployment.region),
        forecast_tokens_per_s=pattern.most(now, ahead_s=start_s),
        tokens_per_request=pattern.tokens_per_request or _HINT_TOKENS,
        capacity_tokens_per_s=capacity.tokens_per_s,
        max_sequences=capacity.max_sequences,
        start_s=start_s,
        offers=offers_of(prices.of(deployment), question),
    )


def capacity_of(snapshot: Snapshot, known: Capacity) -> Capacity:
    """What is remembered for while no node serves."""
    for member in snapshot.members:
        if member.phase == "ready" and member.load.capacity_tokens_per_s > 0:
            return Capacity(member.load.capacity_tokens_per_s, member.load.max_sequences)
    return known


def history_of(kept: Kept, attempts: Attempts, points: Sequence[Point]) -> History:
    """What came before: what the database keeps, and what whoever decides has seen itself."""
    return History(
        points=tuple(points),
        scaled_up_at=kept.scaled_up_at,
        scaled_down_at=kept.scaled_down_at,
        failed_launches=attempts.failed_in_a_row,
        failed_at=attempts.failed_at,
    )


def _mostly_silent(machines: Sequence[Machine], signals: FleetSignals) -> bool:
    """Whether most machines look dead: then nobody ends them, and they go on costing."""
    active = [signals.nodes.get(each.instance.id) for each in machines if each.instance.state == "active"]
    return mostly_dead(sum(1 for node in active if node is None or node.dead), active=len(active))


def _own(machines: Sequence[Machine], signals: FleetSignals, *, silent: bool) -> list[Member]:
    replaced = {machine.replaces for machine in machines if machine.replaces}
    members: list[Member] = []
    for machine in machines:
        instance = machine.instance
        node = signals.nodes.get(instance.id)
        spec = instance.spec
        members.append(
            Member(
                id=instance.id,
                phase=_phase(machine, node, silent=silent, current=signals.current),
                spot=spec.use_spot,
                at_risk=node is not None and node.at_risk,
                price_picodollars=instance.hourly_price_picodollars,
                place=f"{spec.provider}/{spec.region}/{spec.instance_type or 'any'}",
                replaced=instance.id in replaced,
                since=instance.created_at,
                load=IDLE if node is None else node.load,
            )
        )
    return members


def _phase(machine: Machine, node: NodeSample | None, *, silent: bool, current: bool) -> Phase:
    state = machine.instance.state
    if state == "terminating":
        return "leaving"
    if node is None:
        # One that served and is not even known any more has gone, unless another replica, which hears of the registry
        # while we do not, has launched it since; one that never served is on its way.
        return _gone(silent=silent or not current) if state == "active" else "launching"
    if node.ending:
        return _gone(silent=silent and node.dead)
    if node.draining:
        return "leaving"
    return "ready" if node.serves else "launching"


def _gone(*, silent: bool) -> Phase:
    return "silent" if silent else "taken"


def _others(
    deployment: Deployment, machines: Sequence[Machine], signals: FleetSignals, *, now: datetime
) -> list[Member]:
    """Nodes that no deployment of this model launched, and that serve it all the same."""
    launched = {machine.instance.id for machine in machines}
    return [
        Member(id=node.id, phase="ready", own=False, since=now, load=node.load, at_risk=node.at_risk)
        for node in signals.serving(deployment.model, deployment.region)
        if node.id not in launched
    ]
