"""What machines cost is read from the registry: each machine once, whoever was away."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from crosslogic_billing.machines.reader import MachineReader
from crosslogic_billing.machines.store import PostgresMachines
from crosslogic_billing.views.domain import Machine
from crosslogic_billing.views.store import PostgresViews
from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.billing_bench import NOW, Bench, bench

HOUR = timedelta(hours=1)


@dataclass
class Registry:
    """Nodes' lives in memory."""

    lives: list[Machine] = field(default_factory=list)
    asked: list[datetime | None] = field(default_factory=list)
    away: bool = False

    async def machines(self, since: datetime | None) -> Sequence[Machine]:
        if self.away:
            raise CodedError(ErrorCode.UNAVAILABLE)
        self.asked.append(since)
        return [life for life in self.lives if since is None or life.ends is None or life.ends >= since]


def machine(node_id: str, **changes: object) -> Machine:
    made = Machine(
        node_id=node_id,
        region="us-east",
        gpu_type="H100",
        gpu_count=8,
        spot=True,
        hourly_picodollars=2 * 10**12,
        models=("llama-3-8b",),
        begins=NOW,
        ends=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
async def world(pg_url: str) -> AsyncIterator[Bench]:
    async with bench(pg_url) as made:
        yield made


async def known(world: Bench) -> list[Machine]:
    return await PostgresViews(world.pool).machines(NOW - 1_000 * HOUR, NOW + 1_000 * HOUR, 100)


def reader(world: Bench, registry: Registry) -> MachineReader:
    return MachineReader(nodes=registry, store=PostgresMachines(world.pool), clock=world.clock)


async def test_a_machine_that_came_and_went_while_billing_was_away_is_paid_for_once(world: Bench) -> None:
    registry = Registry([machine("a")])
    for _ in range(3):
        await reader(world, registry).read()
        world.clock.advance(minutes=1)
    assert await known(world) == [machine("a")]
    # Billing, or the registry, is away for ten days; one machine ends and another lives and dies in that time.
    registry.away = True
    with pytest.raises(CodedError):
        await reader(world, registry).read()
    registry.away = False
    ended = machine("a", ends=NOW + 3 * HOUR)
    brief = machine("b", begins=NOW + 4 * HOUR, ends=NOW + 5 * HOUR, spot=False)
    registry.lives = [ended, brief]
    world.clock.advance(days=10)
    for _ in range(2):
        await reader(world, registry).read()
    assert await known(world) == [ended, brief]
    # Only what changed is asked for.
    assert registry.asked[0] is None
    assert registry.asked[-1] is not None
    assert registry.asked[-1] > NOW + timedelta(days=9)


async def test_what_an_operator_says_of_a_machine_takes_the_place_of_what_its_node_says(world: Bench) -> None:
    registry = Registry([machine("a", hourly_picodollars=0)])
    await reader(world, registry).read()
    by_hand = machine("a", begins=NOW - HOUR, hourly_picodollars=7)
    await PostgresMachines(world.pool).set_by_hand(by_hand)
    world.clock.advance(minutes=1)
    await reader(world, registry).read()
    assert await known(world) == [by_hand]


async def test_a_replica_that_was_late_brings_no_machine_back_that_has_ended(world: Bench) -> None:
    store = PostgresMachines(world.pool)
    await store.keep([machine("a", ends=NOW + HOUR)], NOW + HOUR)
    await store.keep([machine("a")], NOW)
    assert (await known(world))[0].ends == NOW + HOUR
