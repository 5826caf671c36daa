"""Whatever happens to nodes, the database and the registry, in any order: what schedulers are told holds true."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError
from crosslogic_registry.watchers import Watcher
from tests.fakes.registry_world import SILENCE, FakeStream, World, heartbeat

Result = TypeVar("Result")
NODES = st.integers(0, 3)
WORDS = st.sampled_from(["WARMING", "ACTIVE", "DRAINING", "DEAD", "REGISTERING", "UNSPECIFIED"])


class LifeOfAFleet(RuleBasedStateMachine):
    """Four nodes, one registry that may be restarted, one scheduler that watches."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World()
        self.watching = contextlib.ExitStack()
        self.watcher = Watcher(gather_s=0.0)
        self.seen: dict[str, pb.Node] = {}
        self.ids: list[str] = []
        self.streams: dict[str, FakeStream] = {}
        self.heard_at: dict[str, float] = {}
        self.drained: set[str] = set()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(coroutine)

    @initialize()
    def join(self) -> None:
        self.watch()
        for _ in range(4):
            self.ids.append(self.run(self.world.join()))
            self.heard_at[self.ids[-1]] = self.world.clock.monotonic()

    def watch(self) -> None:
        self.watching.close()
        self.watcher = self.watching.enter_context(self.world.watchers.watching())
        self.seen = {}
        for node in self.world.fleet.nodes():
            self.see(node)

    def see(self, node: pb.Node) -> None:
        copy = pb.Node()
        copy.CopyFrom(node)
        self.seen[node.id] = copy

    @rule(number=NODES)
    def connect(self, number: int) -> None:
        node_id = self.ids[number]
        self.streams[node_id] = self.run(self.world.speak(node_id, "UNSPECIFIED"))
        self.heard_at[node_id] = self.world.clock.monotonic()

    @rule(number=NODES, word=WORDS)
    def speak(self, number: int, word: str) -> None:
        node_id = self.ids[number]
        if node_id not in self.streams:
            return
        session = self.streams[node_id].session

        async def hear() -> None:
            self.world.fleet.hear(node_id, session, heartbeat(word, "so"))

        self.run(hear())
        self.heard_at[node_id] = self.world.clock.monotonic()

    @rule(number=NODES)
    def lose_the_stream(self, number: int) -> None:
        stream = self.streams.pop(self.ids[number], None)
        if stream is not None:
            self.world.fleet.disconnect(self.ids[number], stream.session)

    @rule(number=NODES)
    def drain(self, number: int) -> None:
        with contextlib.suppress(CodedError):
            self.run(self.world.fleet.drain(self.ids[number]))
            self.drained.add(self.ids[number])

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 20.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.silence(seconds)

    @rule(away=st.booleans())
    def database(self, away: bool) -> None:
        self.world.store.away = away

    @rule()
    def save(self) -> None:
        self.run(self.world.changes.write())

    @precondition(lambda self: not self.world.store.away and not self.world.changes.unsaved_node_ids())
    @rule()
    def restart(self) -> None:
        before = {node.id: (node.status, node.status_reason) for node in self.world.fleet.nodes()}
        self.world = World(store=self.world.store, clock=self.world.clock)
        self.run(self.world.fleet.load())
        assert {node.id: (node.status, node.status_reason) for node in self.world.fleet.nodes()} == before
        self.streams.clear()
        self.heard_at = dict.fromkeys(self.ids, self.world.clock.monotonic())
        self.watch()

    @invariant()
    def the_scheduler_sees_the_fleet_as_it_is(self) -> None:
        while self.watcher._pending:
            for node in self.run(self.watcher.next()).nodes:
                self.see(node)
        assert self.seen == {node.id: node for node in self.world.fleet.nodes()}

    @invariant()
    def a_drained_node_takes_no_requests(self) -> None:
        for node_id in self.drained:
            assert self.world.node(node_id).status != pb.NODE_STATUS_ACTIVE

    @invariant()
    def the_dead_are_not_reachable(self) -> None:
        for node in self.world.fleet.nodes():
            assert node.status != pb.NODE_STATUS_DEAD or not node.reachable

    @invariant()
    def a_node_that_was_just_heard_is_reachable_unless_it_said_goodbye(self) -> None:
        for node_id, heard_at in self.heard_at.items():
            node = self.world.node(node_id)
            if node.status != pb.NODE_STATUS_DEAD and self.world.clock.monotonic() - heard_at < SILENCE.suspect_s:
                assert node.reachable

    @invariant()
    def what_is_saved_is_what_is_told(self) -> None:
        if self.world.changes.unsaved_node_ids() or self.world.store.away:
            return
        for stored in self.run(self.world.store.nodes_by_id(self.ids)):
            node = self.world.node(stored.id)
            assert pb.NodeStatus.Name(node.status) == f"NODE_STATUS_{stored.status.upper()}"
            assert node.facts == stored.facts

    def teardown(self) -> None:
        self.watching.close()
        self.runner.close()


TestLifeOfAFleet = LifeOfAFleet.TestCase
TestLifeOfAFleet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
