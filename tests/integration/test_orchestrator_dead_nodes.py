"""A node that died without a word: its machine is ended, once, and nobody pays for it any longer."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from crosslogic_common.ids import Uuid7Source
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import Pool, transaction
from crosslogic_orchestrator.dead_nodes import DeadNodes, overdue
from crosslogic_orchestrator.domain import Machine, NodeStatus, NodeView, Spec, Step
from crosslogic_orchestrator.events import FleetEvents
from crosslogic_orchestrator.jobs import launch_job
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.policy import Limits, Reach, decide
from crosslogic_orchestrator.store import PostgresStore

DEAD_S = 300.0
INTERVAL_S = 30.0


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self._now = datetime(2026, 11, 21, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    def pass_by(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


class Fleet:
    """The registry as far as its nodes are asked for."""

    def __init__(self) -> None:
        self.followed = True
        self.nodes: dict[str, NodeView] = {}

    def say(self, status: NodeStatus, *ids: str) -> None:
        self.nodes |= {each: NodeView(each, status, "it said nothing", 0) for each in ids}

    def node(self, node_id: str) -> NodeView | None:
        return self.nodes.get(node_id)


class World:
    """Two replicas over one database."""

    def __init__(self, pool: Pool, url: str) -> None:
        self.pool, self.store = pool, PostgresStore(pool, dsn=url)
        self.clock, self.fleet, self.ids = Clock(), Fleet(), Uuid7Source()
        self.replicas = []
        for _ in range(2):
            self.metrics = Metrics()
            self.replicas.append(self._replica())

    def _replica(self) -> DeadNodes:
        return DeadNodes(
            store=self.store,
            fleet=self.fleet,  # type: ignore[arg-type]  # nothing else is asked
            clock=self.clock,
            ids=self.ids,
            metrics=OrchestratorMetrics(self.metrics),
            events=FleetEvents(self.pool),
            dead_s=DEAD_S,
            interval_s=INTERVAL_S,
        )

    async def machines(self, count: int) -> Sequence[str]:
        """So many that are active, with nodes that are."""
        found = []
        for index in range(count):
            spec = Spec(model="m", provider=("aws", "local")[index % 2], region="r")
            job = launch_job(spec, ids=self.ids, now=self.clock.now(), price_picodollars=10**12)
            await self.store.add_launch(job, request_id="")
            found.append(job.instance.id)
        async with transaction(self.pool) as connection:
            await connection.execute("UPDATE instances SET state = 'active'")
            await connection.execute("UPDATE jobs SET status = 'succeeded'")
        self.fleet.say("active", *found)
        return found

    async def wait(self, seconds: float) -> None:
        """Time goes by, while the replicas look as often as they do."""
        until = self.clock.monotonic() + seconds
        while (left_s := until - self.clock.monotonic()) > 0:
            self.clock.pass_by(min(left_s, INTERVAL_S))
            await self.look()

    async def look(self) -> None:
        for replica in self.replicas:
            await replica.look_once()

    def held(self) -> float:
        """Of the last replica's metrics."""
        value = self.metrics.registry.get_sample_value("crosslogic_dead_nodes_held")
        assert value is not None
        return value

    async def states(self) -> dict[str, str]:
        listed = await self.store.instances(after="", limit=100, include_ended=True)
        return {each.id: each.state for each in listed}

    async def events(self) -> list[tuple[str, str, str]]:
        async with transaction(self.pool) as connection:
            cursor = await connection.execute("SELECT kind, instance_id, text FROM events ORDER BY seq")
            return [(row[0], str(row[1]), row[2]) for row in await cursor.fetchall()]


@pytest.fixture
def world(fleet_pool: Pool, pg_url: str) -> World:
    return World(fleet_pool, pg_url)


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_machine_whose_node_died_is_ended_once_after_its_time_and_operators_are_told(
    world: World, forgotten: bool
) -> None:
    dead, *well = await world.machines(3)
    world.fleet.say("dead", dead)
    if forgotten:
        del world.fleet.nodes[dead]
    await world.look()
    await world.wait(DEAD_S - 1)
    assert set((await world.states()).values()) == {"active"}
    await world.wait(2)
    assert await world.states() == {dead: "terminating", **dict.fromkeys(well, "active")}
    [(kind, instance_id, text)] = await world.events()
    assert (kind, instance_id) == ("node_lost", dead)
    assert "has been dead for 300 s" in text

    job = await world.store.claim(lease_s=30)
    assert job is not None
    assert (job.kind, job.instance.id) == ("terminate", dead)
    # Nobody drains the dead.
    here = Machine(dead, "running")
    assert decide(job, here, world.fleet.node(dead), now=world.clock.now(), limits=Limits()) == Reach(Step.DELETING)
    assert await world.store.claim(lease_s=30) is None


async def test_a_dead_node_of_a_provider_that_is_not_configured_any_more_is_not_kept_for_ever(world: World) -> None:
    dead, *_ = await world.machines(3)
    async with transaction(world.pool) as connection:
        await connection.execute("UPDATE instances SET provider = 'removed' WHERE id = %s", (dead,))
    world.fleet.say("dead", dead)
    await world.look()
    await world.wait(DEAD_S + 1)
    assert (await world.states())[dead] == "terminating", "its end does not come about, and somebody is told of that"


async def test_a_node_that_speaks_again_keeps_its_machine(world: World) -> None:
    one, *_ = await world.machines(3)
    for _ in range(3):
        world.fleet.say("dead", one)
        await world.look()
        await world.wait(DEAD_S - 1)
        world.fleet.say("active", one)
        await world.look()
        world.clock.pass_by(10)
    assert set((await world.states()).values()) == {"active"}


async def test_time_that_the_registry_was_away_is_held_against_nobody(world: World) -> None:
    one, *_ = await world.machines(3)
    world.fleet.say("dead", one)
    await world.look()
    world.fleet.followed = False
    await world.wait(2 * DEAD_S)
    world.fleet.followed = True
    await world.look()
    assert set((await world.states()).values()) == {"active"}
    await world.wait(DEAD_S)
    assert (await world.states())[one] == "terminating"


async def test_a_replica_that_was_stopped_ends_no_machine_whose_node_came_back_meanwhile(world: World) -> None:
    one, *_ = await world.machines(3)
    world.fleet.say("dead", one)
    await world.wait(DEAD_S - INTERVAL_S)
    # It wakes up, and what it knows of the node is as old as its sleep was long.
    world.clock.pass_by(10 * DEAD_S)
    await world.look()
    world.fleet.say("active", one)
    await world.wait(DEAD_S)
    assert set((await world.states()).values()) == {"active"}


async def test_a_fleet_that_looks_dead_for_the_most_part_is_left_alone(world: World) -> None:
    machines = await world.machines(5)
    world.fleet.say("dead", *machines[:3])
    await world.look()
    await world.wait(2 * DEAD_S)
    assert set((await world.states()).values()) == {"active"}
    [(kind, _, text)] = await world.events()
    assert (kind, text[:29]) == ("fleet_silent", "3 of 5 machines look dead: th")
    assert world.held() == 3
    world.fleet.say("active", machines[0])
    await world.look()
    assert world.held() == 0
    ended = [each for each, state in (await world.states()).items() if state == "terminating"]
    assert sorted(ended) == sorted(machines[1:3])


async def test_operators_are_told_once_of_a_fleet_that_falls_silent_again_and_again(world: World) -> None:
    machines = await world.machines(3)
    for _ in range(3):
        world.fleet.say("dead", *machines)
        await world.look()
        world.fleet.say("active", *machines)
        await world.look()
        world.clock.pass_by(60)
    assert [kind for kind, _, _ in await world.events()] == ["fleet_silent"]
    world.clock.pass_by(3_600)
    world.fleet.say("dead", *machines)
    await world.look()
    assert [kind for kind, _, _ in await world.events()] == ["fleet_silent"] * 2


async def test_a_registry_that_is_away_takes_the_alarm_back(world: World) -> None:
    machines = await world.machines(3)
    world.fleet.say("dead", *machines)
    await world.look()
    assert world.held() == 3
    world.fleet.followed = False
    await world.look()
    assert world.held() == 0, "nothing is known of them now; that the registry is away has an alarm of its own"


async def test_a_machine_that_somebody_ends_is_not_ended_again(world: World) -> None:
    one, *_ = await world.machines(3)
    world.fleet.say("dead", one)
    await world.look()
    async with transaction(world.pool) as connection:
        await connection.execute("UPDATE instances SET state = 'lost', ended_at = now() WHERE id = %s", (one,))
    await world.wait(DEAD_S)
    assert (await world.states())[one] == "lost"
    assert await world.events() == []


def test_two_machines_of_two_that_died_are_ended() -> None:
    since = datetime(2026, 11, 21, tzinfo=UTC)
    later = since + timedelta(seconds=DEAD_S)
    assert overdue({"a": since, "b": since}, active=2, now=later, dead_s=DEAD_S) == ["a", "b"]
    assert overdue({"a": since, "b": later}, active=2, now=later, dead_s=DEAD_S) == ["a"]
    assert overdue({"a": since, "b": since}, active=3, now=later, dead_s=DEAD_S) == []
