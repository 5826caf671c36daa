"""Leases: what one replica knows of nodes that stream at another."""

import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_registry.gateways import Gateways
from crosslogic_registry.leases import LeaseRounds
from tests.fakes.registry_store import FakeLeaseBook
from tests.fakes.registry_world import FakeStream, World, heartbeat


class Replicas:
    """Two replicas with one database and one lease book, and a node that streams at the first."""

    def __init__(self) -> None:
        self.book = FakeLeaseBook()
        self.here = World()
        self.there = World(store=self.here.store, clock=self.here.clock, origin="there")
        self.rounds = {world: self.rounds_of(world) for world in (self.here, self.there)}
        self.node_id = ""
        self.stream = FakeStream()

    def rounds_of(self, world: World) -> LeaseRounds:
        return LeaseRounds(
            fleet=world.fleet,
            book=self.book,
            observations=world.observations,
            gateways=Gateways(fleet=world.fleet, silence=world.silence_watch),
            origin=str(id(world)),
        )

    async def start(self) -> None:
        self.node_id, self.stream = await self.here.active()
        await self.there.fleet.load()
        await self.round()

    async def round(self) -> None:
        for rounds in self.rounds.values():
            await rounds.round()

    async def seconds(self, number: int, *, beating: bool = True) -> None:
        for second in range(number):
            self.here.clock.pass_s(1)
            if beating and second % 5 == 0:
                word = heartbeat(tokens_per_sec=float(second))
                self.here.fleet.hear(self.node_id, self.stream.session, word)
            await self.round()
            self.here.silence_watch.look()
            self.there.silence_watch.look()


@pytest.fixture
async def replicas() -> Replicas:
    made = Replicas()
    await made.start()
    return made


async def test_a_node_that_streams_at_one_replica_is_alive_at_the_other_with_its_load(replicas: Replicas) -> None:
    await replicas.seconds(200)
    node = replicas.there.node(replicas.node_id)
    assert node.status == pb.NODE_STATUS_ACTIVE
    assert node.reachable
    assert node.load == replicas.here.node(replicas.node_id).load


async def test_a_node_killed_at_one_replica_is_passed_over_by_both_in_seconds(replicas: Replicas) -> None:
    await replicas.seconds(10)
    replicas.here.fleet.disconnect(replicas.node_id, replicas.stream.session)
    await replicas.seconds(6, beating=False)
    for world in (replicas.here, replicas.there):
        assert not world.node(replicas.node_id).reachable


async def test_a_node_that_moves_to_the_other_replica_stays_reachable_at_both(replicas: Replicas) -> None:
    await replicas.seconds(7)
    replicas.here.fleet.disconnect(replicas.node_id, replicas.stream.session)
    stream = await replicas.there.speak(replicas.node_id)
    for second in range(30):
        replicas.here.clock.pass_s(1)
        if second % 5 == 0:
            replicas.there.fleet.hear(replicas.node_id, stream.session, heartbeat())
        await replicas.round()
        for world in (replicas.here, replicas.there):
            world.silence_watch.look()
            assert world.node(replicas.node_id).reachable


async def test_without_redis_nobody_is_given_up_who_may_stream_at_another_replica(replicas: Replicas) -> None:
    await replicas.seconds(10)
    replicas.book.away = True
    await replicas.seconds(100)
    assert replicas.here.node(replicas.node_id).reachable
    assert replicas.there.node(replicas.node_id).status == pb.NODE_STATUS_ACTIVE
    replicas.book.away = False
    await replicas.seconds(10)
    assert replicas.there.node(replicas.node_id).reachable


async def test_without_redis_a_node_that_was_heard_here_is_still_given_up(replicas: Replicas) -> None:
    replicas.book.away = True
    replicas.here.fleet.disconnect(replicas.node_id, replicas.stream.session)
    await replicas.seconds(61, beating=False)
    assert replicas.here.node(replicas.node_id).status == pb.NODE_STATUS_DEAD


async def test_rubbish_in_redis_is_passed_over(replicas: Replicas) -> None:
    replicas.book.leases[replicas.node_id] = b"\xff\xff rubbish"
    assert await replicas.rounds[replicas.there].round()
    assert replicas.there.node(replicas.node_id).status == pb.NODE_STATUS_ACTIVE


async def test_a_stream_that_died_without_a_word_does_not_hide_the_nodes_new_one_at_the_other_replica(
    replicas: Replicas,
) -> None:
    await replicas.seconds(2)
    stream = await replicas.there.speak(replicas.node_id)
    for second in range(30):
        replicas.here.clock.pass_s(1)
        if second % 5 == 0:
            replicas.there.fleet.hear(replicas.node_id, stream.session, heartbeat())
        await replicas.round()
        for world in (replicas.here, replicas.there):
            world.silence_watch.look()
            assert world.node(replicas.node_id).reachable
    assert replicas.stream.session.ended
