"""Changes on their way to the database."""

import asyncio
from collections.abc import Mapping, Sequence

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_registry.change_log import MAX_CHANGES_KEPT, ChangeLog
from crosslogic_registry.domain import Status, StatusChange
from crosslogic_registry.observations import Observations
from tests.fakes.registry_store import FakeRegistryClock, FakeRegistryStore
from tests.fakes.registry_world import World, facts

CLOCK = FakeRegistryClock()


def change(node_id: str, status: Status, reason: str = "") -> StatusChange:
    return StatusChange(node_id=node_id, status=status, reason=reason, at=CLOCK.now())


def log_of(store: FakeRegistryStore) -> ChangeLog:
    return ChangeLog(store=store, origin="this", observations=Observations())


async def test_a_thousand_changes_at_once_are_one_transaction() -> None:
    world = World()
    ids = [await world.join() for _ in range(1000)]
    for node_id in ids:
        world.changes.add_status(change(node_id, "active"))
    async with world.changes.running():
        await asyncio.sleep(0.01)
    assert world.store.saves == 1
    assert world.changes.unsaved_node_ids() == frozenset()


async def test_what_is_left_when_the_registry_stops_is_written() -> None:
    world = World()
    node_id = await world.join()
    async with world.changes.running():
        world.changes.add_status(change(node_id, "active"))
    assert world.store.told[-1][:2] == (node_id, "active")


async def test_a_database_that_is_away_for_long_costs_one_change_a_node() -> None:
    world = World()
    world.store.away = True
    for number in range(MAX_CHANGES_KEPT + 5_000):
        world.changes.add_status(change(f"node-{number % 100}", "active" if number % 2 else "warming", str(number)))
    assert len(world.changes._changes) <= MAX_CHANGES_KEPT
    assert len(world.changes.unsaved_node_ids()) == 100


async def test_changes_made_during_a_failed_write_come_after_those_it_carried() -> None:
    world = World()
    node_id = await world.join()

    class Failing(FakeRegistryStore):
        async def save(self, changes: Sequence[StatusChange], said: Mapping[str, pb.NodeFacts], *, origin: str) -> None:
            log.add_status(change(node_id, "draining"))
            log.add_facts(node_id, facts(gpu_type="new"))
            self.away = True
            await super().save(changes, said, origin=origin)

    log = log_of(Failing(CLOCK))
    log.add_status(change(node_id, "active"))
    log.add_facts(node_id, facts(gpu_type="old"))
    assert not await log.write()
    log._store = world.store
    assert await log.write()
    assert [status for _, status, _ in world.store.told] == ["registering", "active", "draining"]
    [stored] = await world.store.nodes_by_id([node_id])
    assert stored.facts.gpu_type == "new"


async def test_a_change_that_cannot_be_written_does_not_hold_up_all_that_follow() -> None:
    class Broken(FakeRegistryStore):
        broken = True

        async def save(self, changes: Sequence[StatusChange], said: Mapping[str, pb.NodeFacts], *, origin: str) -> None:
            if self.broken:
                raise ValueError("no such column")
            await super().save(changes, said, origin=origin)

    store = Broken(CLOCK)
    log = log_of(store)
    log.add_status(change("a", "active"))
    assert await log.write()
    store.broken = False
    log.add_status(change("b", "active"))
    assert await log.write()
    assert store.saves == 1
