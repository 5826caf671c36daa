"""The fleet in memory."""

import asyncio
from uuid import uuid4

import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.registry_store import FakeRegistryStore
from tests.fakes.registry_world import FakeStream, World, facts, heartbeat


async def test_a_node_lives_from_registering_to_dead_and_each_step_is_kept_with_its_reason() -> None:
    world = World()
    node_id = await world.join()
    stream = await world.speak(node_id, "WARMING")
    for status, reason in (("ACTIVE", "measured"), ("DRAINING", "spot notice"), ("DEAD", "goodbye")):
        world.fleet.hear(node_id, stream.session, heartbeat(status, reason))
    await world.changes.write()
    assert [(status, reason) for _, status, reason in world.store.told] == [
        ("registering", "joined"),
        ("warming", "the node said so"),
        ("active", "measured"),
        ("draining", "spot notice"),
        ("dead", "goodbye"),
    ]
    assert not world.node(node_id).reachable


async def test_whoever_launches_a_node_is_told_how_far_it_is_and_why_its_engine_does_not_start() -> None:
    world = World()
    node_id = await world.join()
    stream = await world.speak(node_id, "WARMING")
    with world.watchers.watching() as watcher:
        for reason in ("the engine is starting", "engine died: out of memory", "the engine is being measured"):
            world.fleet.hear(node_id, stream.session, heartbeat("WARMING", reason))
            (told,) = (await watcher.next()).nodes
            assert (told.status, told.status_reason) == (pb.NODE_STATUS_WARMING, reason)
        world.fleet.hear(node_id, stream.session, heartbeat("ACTIVE", ""))
        (told,) = (await watcher.next()).nodes
        assert told.status_reason == "the node said so"


async def test_a_killed_node_is_passed_over_in_seconds_and_given_up_after_a_minute() -> None:
    world = World()
    node_id, stream = await world.active()
    world.fleet.disconnect(node_id, stream.session)
    world.silence(2.9)
    assert world.node(node_id).reachable
    world.silence(0.2)
    assert not world.node(node_id).reachable
    assert world.node(node_id).status == pb.NODE_STATUS_ACTIVE
    world.silence(57)
    assert world.node(node_id).status == pb.NODE_STATUS_DEAD


async def test_a_node_that_reconnects_in_time_is_never_passed_over() -> None:
    world = World()
    node_id, stream = await world.active()
    with world.watchers.watching() as watcher:
        world.fleet.disconnect(node_id, stream.session)
        world.silence(2.5)
        await world.speak(node_id)
        world.silence(2.5)
        news = await watcher.next()
    assert [node.reachable for node in news.nodes] == [True]


async def test_a_node_that_hangs_with_its_stream_open_is_passed_over_after_15_seconds() -> None:
    world = World()
    node_id, _ = await world.active()
    world.silence(14.9)
    assert world.node(node_id).reachable
    world.silence(0.2)
    assert not world.node(node_id).reachable


async def test_a_dead_node_that_speaks_again_serves_again() -> None:
    world = World()
    node_id, stream = await world.active()
    world.silence(61)
    assert world.node(node_id).status == pb.NODE_STATUS_DEAD
    world.fleet.hear(node_id, stream.session, heartbeat())
    assert world.node(node_id).status == pb.NODE_STATUS_ACTIVE
    assert world.node(node_id).reachable


async def test_heartbeats_cost_the_database_nothing() -> None:
    world = World()
    node_id, stream = await world.active()
    saves = world.store.saves
    for _ in range(1000):
        world.fleet.hear(node_id, stream.session, heartbeat())
        again = heartbeat()
        again.facts.CopyFrom(facts())
        world.fleet.hear(node_id, stream.session, again)
        await world.changes.write()
    assert world.store.saves == saves


async def test_a_restart_serves_the_fleet_as_last_known_and_gives_it_its_whole_silence_to_come_back() -> None:
    world = World()
    kept, _ = await world.active()
    lost, _ = await world.active()
    world.clock.pass_s(3000)  # the registry was away for long
    after = World(store=world.store, clock=world.clock)
    await after.fleet.load()
    after.silence(14)
    assert {node.id for node in after.fleet.nodes() if node.reachable} == {kept, lost}
    assert after.node(kept).facts == facts()
    await after.speak(kept)
    after.silence(47)
    assert after.node(lost).status == pb.NODE_STATUS_DEAD
    assert after.node(kept).status == pb.NODE_STATUS_ACTIVE


async def test_the_registry_starts_while_the_database_is_still_coming_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    node_id, _ = await world.active()
    after = World(store=world.store, clock=world.clock)
    world.store.away = True
    loading = asyncio.create_task(after.fleet.load())
    await asyncio.sleep(0)
    assert not loading.done()
    world.store.away = False
    await asyncio.wait_for(loading, 5)
    assert after.node(node_id).status == pb.NODE_STATUS_ACTIVE


async def test_watchers_hear_of_a_change_while_the_database_is_away_and_it_is_kept_later() -> None:
    world = World()
    node_id, stream = await world.active()
    world.store.away = True
    with world.watchers.watching() as watcher:
        world.fleet.hear(node_id, stream.session, heartbeat("DRAINING", "spot notice"))
        news = await asyncio.wait_for(watcher.next(), 0.1)
    assert [node.status for node in news.nodes] == [pb.NODE_STATUS_DRAINING]
    assert not await world.changes.write()
    world.store.away = False
    assert await world.changes.write()
    assert world.store.told[-1] == (node_id, "draining", "spot notice")


async def test_an_operators_drain_reaches_the_node_at_once_and_holds_against_its_own_word() -> None:
    world = World()
    node_id, stream = await world.active()
    drained = await world.fleet.drain(node_id)
    assert drained.status == pb.NODE_STATUS_DRAINING
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [message.drain for message in stream.sent] == [True]
    assert world.fleet.hear(node_id, stream.session, heartbeat("ACTIVE"))
    assert world.node(node_id).status == pb.NODE_STATUS_DRAINING
    await world.fleet.drain(node_id)


async def test_an_order_to_drain_that_cannot_be_kept_is_not_given() -> None:
    world = World()
    node_id, _ = await world.active()
    world.store.away = True
    with pytest.raises(CodedError) as raised:
        await world.fleet.drain(node_id)
    assert raised.value.code == ErrorCode.UNAVAILABLE
    assert world.node(node_id).status == pb.NODE_STATUS_ACTIVE


async def test_a_drain_holds_after_a_restart_of_the_registry() -> None:
    world = World()
    node_id, _ = await world.active()
    await world.fleet.drain(node_id)
    after = World(store=world.store, clock=world.clock)
    await after.fleet.load()
    await after.speak(node_id, "ACTIVE")
    assert after.node(node_id).status == pb.NODE_STATUS_DRAINING


async def test_a_later_stream_of_a_node_takes_over_and_the_earlier_one_cannot_speak_for_it() -> None:
    world = World()
    node_id, first = await world.active()
    second = await world.speak(node_id)
    assert first.session.ended
    with pytest.raises(CodedError) as refused:
        world.fleet.hear(node_id, first.session, heartbeat("DEAD"))
    assert refused.value.code == ErrorCode.CONFLICT
    world.fleet.disconnect(node_id, first.session)  # its end says nothing about the node
    world.silence(4)
    assert world.node(node_id).reachable
    world.fleet.hear(node_id, second.session, heartbeat())


@pytest.mark.parametrize("node_id", [str(uuid4()), "", "not-an-id", "{" + str(uuid4()) + "}"])
async def test_a_removed_node_is_told_to_join_again(node_id: str) -> None:
    world = World()
    stream = FakeStream()
    for refused in (
        world.fleet.connect(node_id, stream.session),
        world.fleet.org_of(node_id),
        world.fleet.drain(node_id),
    ):
        with pytest.raises(CodedError) as raised:
            await refused
        assert raised.value.code == ErrorCode.NOT_FOUND


async def test_a_node_that_does_not_say_what_it_is_is_refused() -> None:
    world = World()
    node_id = await world.join()
    stream = FakeStream()
    await world.fleet.connect(node_id, stream.session)
    with pytest.raises(CodedError) as refused:
        world.fleet.hear(node_id, stream.session, heartbeat())
    assert refused.value.code == ErrorCode.INVALID_ARGUMENT


async def test_the_long_dead_are_forgotten_so_that_memory_does_not_grow_with_every_spot_machine() -> None:
    world = World()
    nodes = [await world.active() for _ in range(50)]
    for node_id, stream in nodes:
        world.fleet.hear(node_id, stream.session, heartbeat("DEAD"))
        world.fleet.disconnect(node_id, stream.session)
    with world.watchers.watching() as watcher:
        world.silence(3599)
        assert len(world.fleet) == 50
        world.silence(2)
        assert len(world.fleet) == 0
        news = await watcher.next()
    assert sorted(news.removed_node_ids) == sorted(node_id for node_id, _ in nodes)


async def test_a_forgotten_node_that_comes_back_is_known_from_the_database() -> None:
    world = World()
    node_id, stream = await world.active()
    world.fleet.hear(node_id, stream.session, heartbeat("DEAD"))
    world.fleet.disconnect(node_id, stream.session)
    await world.changes.write()
    world.silence(4000)
    assert len(world.fleet) == 0
    await world.speak(node_id)
    assert world.node(node_id).status == pb.NODE_STATUS_ACTIVE


async def test_a_replica_that_stops_does_not_speak_ill_of_its_nodes() -> None:
    world = World()
    node_id, stream = await world.active()
    world.fleet.end_sessions()
    assert stream.session.ended
    world.fleet.disconnect(node_id, stream.session)
    world.silence(10)
    assert world.node(node_id).reachable


class TestTwoReplicas:
    async def test_a_node_that_joined_here_may_stream_there(self) -> None:
        here = World()
        there = World(store=here.store, clock=here.clock, origin="there")
        node_id = await here.join()
        await there.speak(node_id)
        assert there.node(node_id).status == pb.NODE_STATUS_ACTIVE

    async def test_a_change_there_is_taken_here(self) -> None:
        here = World()
        there = World(store=here.store, clock=here.clock, origin="there")
        node_id = await here.join()
        await there.speak(node_id)
        await there.changes.write()
        await self.notify(here.store, here, node_id)
        assert here.node(node_id).status == pb.NODE_STATUS_ACTIVE
        assert here.node(node_id).facts == facts()

    async def test_a_drain_ordered_there_reaches_the_node_that_streams_here(self) -> None:
        here = World()
        there = World(store=here.store, clock=here.clock, origin="there")
        node_id, stream = await here.active()
        await there.fleet.drain(node_id)
        await self.notify(here.store, here, node_id)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [message.drain for message in stream.sent] == [True]
        assert here.node(node_id).status == pb.NODE_STATUS_DRAINING

    async def test_a_replica_that_could_not_hear_a_node_is_put_right_by_the_one_that_does(self) -> None:
        here = World()
        node_id, stream = await here.active()
        there = World(store=here.store, clock=here.clock, origin="there")
        await there.fleet.load()
        there.silence(61)
        await there.changes.write()
        here.fleet.hear(node_id, stream.session, heartbeat())
        await self.notify(here.store, here, node_id)
        await here.changes.write()
        await self.notify(here.store, there, node_id)
        for replica in (here, there):
            assert replica.node(node_id).status == pb.NODE_STATUS_ACTIVE

    @pytest.mark.parametrize("word", ["DRAINING", "DEAD"])
    async def test_a_node_that_moved_is_let_go_by_the_replica_whose_stream_broke_without_a_word(
        self, word: str
    ) -> None:
        here = World()
        there = World(store=here.store, clock=here.clock, origin="there")
        node_id, stale = await here.active()
        stream = await there.speak(node_id)
        there.fleet.hear(node_id, stream.session, heartbeat(word, "spot notice"))
        for _ in range(5):  # they must not overwrite each other for ever
            for world, other in ((there, here), (here, there)):
                await world.changes.write()
                await self.notify(here.store, other, node_id)
        assert stale.session.ended
        for world in (here, there):
            assert world.node(node_id).status == pb.NodeStatus.Value(f"NODE_STATUS_{word}")
        assert len(here.store.told) == 3

    @staticmethod
    async def notify(store: FakeRegistryStore, world: World, node_id: str) -> None:
        for node in await store.nodes_by_id([node_id]):
            world.fleet.adopt(node, link="elsewhere")
