"""What the autoscaler never does, whatever happens: tried on machines that fail, are taken back and come late."""

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.autoscale_simulation import Shape, World, by_oracle, by_policy, requests, shorter, usual_hours
from crosslogic_orchestrator.scaling.domain import (
    Deployment,
    History,
    Load,
    Member,
    Offer,
    Plan,
    Snapshot,
)
from crosslogic_orchestrator.scaling.policy import decide, remember

NOW = datetime(2026, 11, 20, tzinfo=UTC)
TICK_S = 5
OFFERS = tuple(
    Offer(
        provider=name,
        region="r",
        instance_type="t",
        spot=spot,
        price_picodollars=price,
        expected_price_picodollars=price,
    )
    for name, spot, price in (("cheap", True, 1), ("a", False, 3), ("b", False, 4))
)

deployments = st.builds(
    Deployment,
    id=st.just("d"),
    model=st.just("m"),
    region=st.just("r"),
    min_nodes=st.integers(0, 4),
    max_nodes=st.integers(4, 12),
    spot_share=st.sampled_from([0.0, 0.5, 1.0]),
    on_demand_floor=st.integers(0, 3),
    warm_spares=st.integers(0, 2),
    max_spend_picodollars=st.sampled_from([0, 10, 25]),
    scale_down_cooldown_s=st.sampled_from([30.0, 120.0]),
)


@dataclass
class Fleet:
    """Machines as they come and go."""

    dice: random.Random
    members: dict[str, Member] = field(default_factory=dict)
    launched: int = 0

    @property
    def serves(self) -> bool:
        """Whether gateways need not hold requests."""
        return any(member.phase == "ready" for member in self.members.values())

    def pass_to(self, now: datetime, *, load: float, calm: bool) -> None:
        """Time passes: machines come, some fail, some are taken back, and the load is shared by those that serve."""
        for member in list(self.members.values()):
            age_s = (now - member.since).total_seconds()
            if member.phase == "launching" and age_s >= 40:
                self.members[member.id] = replace(member, phase="ready")
            if member.phase == "taken" or (not calm and self.dice.random() < 0.01):
                del self.members[member.id]
            elif member.phase == "leaving":
                if age_s > 0 and self.dice.random() < 0.5:
                    del self.members[member.id]
            elif member.spot and not calm and self.dice.random() < 0.03:
                self.members[member.id] = replace(member, phase="taken")
        ready = [member for member in self.members.values() if member.phase == "ready"]
        for member in ready:
            share = load / len(ready)
            self.members[member.id] = replace(
                member,
                load=Load(
                    running=min(16, round(share)),
                    waiting=max(0, round(share) - 16),
                    tokens_per_s=min(16.0, share) * 50,
                    capacity_tokens_per_s=800,
                    max_sequences=16,
                ),
            )

    def carry_out(self, plan: Plan, now: datetime) -> None:
        """As the orchestrator does."""
        for launch in plan.launches:
            self.launched += 1
            self.members[f"n{self.launched}"] = Member(
                id=f"n{self.launched}",
                phase="launching",
                spot=launch.offer.spot,
                price_picodollars=launch.offer.price_picodollars,
                since=now,
            )
        for end in plan.ends:
            self.members[end.member_id] = replace(self.members[end.member_id], phase="leaving")


def paid(fleet: Fleet) -> list[Member]:
    return [member for member in fleet.members.values() if member.phase != "taken"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(deployments, st.integers(0, 2**32), st.lists(st.floats(0, 400), min_size=3, max_size=6))
def test_bounds_and_floors_hold_whatever_machines_and_load_do(
    deployment: Deployment, seed: int, loads: list[float]
) -> None:
    fleet, history = Fleet(random.Random(seed)), History()
    reserved = 800.0 * random.Random(seed).randint(0, 2)
    for tick in range(60 * len(loads)):
        now = NOW + timedelta(seconds=tick * TICK_S)
        fleet.pass_to(now, load=loads[tick // 60], calm=False)
        snapshot = Snapshot(
            now=now,
            members=tuple(fleet.members.values()),
            held_requests=0 if fleet.serves else round(loads[tick // 60]),
            reserved_tokens_per_s=reserved,
            capacity_tokens_per_s=800,
            max_sequences=16,
            offers=OFFERS,
        )
        plan = decide(deployment, snapshot, history)
        history = remember(deployment, history, plan, now=now)
        before = len(paid(fleet))
        fleet.carry_out(plan, now)
        if plan.launches:
            assert len(paid(fleet)) <= deployment.max_nodes
            spend = sum(member.price_picodollars for member in paid(fleet))
            assert spend <= (deployment.max_spend_picodollars or spend)
        if plan.ends:
            staying = [member for member in paid(fleet) if member.phase != "leaving"]
            assert len(staying) >= max(deployment.min_nodes, reserved / 800), "fewer than are owed"
            on_demand = sum(1 for member in staying if not member.spot)
            # Never fewer on demand because of an end: the spend limit may have kept them from coming.
            gone = sum(1 for end in plan.ends if not fleet.members[end.member_id].spot)
            assert not gone or on_demand >= min(len(staying), deployment.on_demand_floor)
        assert not (plan.launches and plan.ends), "it gives and takes at once"
        assert len(paid(fleet)) == before + len(plan.launches)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(deployments, st.floats(0, 150), st.integers(0, 2**32))
def test_steady_load_with_its_noise_does_not_make_the_fleet_swing(
    deployment: Deployment, load: float, seed: int
) -> None:
    dice = random.Random(seed)
    fleet, history = Fleet(dice), History()
    changes: list[tuple[int, str]] = []
    for tick in range(480):
        now = NOW + timedelta(seconds=tick * TICK_S)
        fleet.pass_to(now, load=max(0.0, dice.gauss(load, load**0.5)), calm=True)
        snapshot = Snapshot(
            now=now,
            members=tuple(fleet.members.values()),
            held_requests=0 if fleet.serves else round(load),
            capacity_tokens_per_s=800,
            max_sequences=16,
            start_s=40,
            offers=OFFERS,
        )
        plan = decide(deployment, snapshot, history)
        history = remember(deployment, history, plan, now=now)
        fleet.carry_out(plan, now)
        # What only the mix asks for is no change of size.
        changes += [(tick, "up")] * bool([each for each in plan.launches if "on demand" not in each.why])
        changes += [(tick, "down")] * bool(plan.ends)
    least_ticks = deployment.scale_down_cooldown_s / TICK_S
    for (at, one), (later, other) in pairwise(changes):
        assert (one, other) != ("up", "down") or later - at >= least_ticks
    late = [kind for tick, kind in changes if tick >= 240]
    # Whoever asks for a cool-down of half a minute asks for a fleet that follows every change.
    assert deployment.scale_down_cooldown_s < 120 or len(late) <= 10, f"{late} in twenty minutes of the same load"


def test_burst_of_ten_times_the_load_stays_below_the_slo_at_little_more_than_an_oracles_cost() -> None:
    """The small sister of `python -m benchmarks autoscale`: six hours, machines that start in 120 s."""
    shape = shorter(Shape(), 6)
    world = World(requests(shape, seed=5), shape.hours * 3600, 120.0)
    oracle = by_oracle(world, share=0.99)
    usual = usual_hours(shape, days=7, seed=1)
    seen = by_policy(world, Deployment(id="d", model="m", region="r", min_nodes=1, max_nodes=60), forecast=usual)
    assert oracle.below_slo >= 0.99
    assert seen.below_slo >= 0.99
    assert seen.machine_seconds <= 1.3 * oracle.machine_seconds
