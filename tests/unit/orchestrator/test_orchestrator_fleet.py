"""The registry's nodes as the orchestrator follows them: since when one is dead, and when nobody can say."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.tls import Channels, TlsFiles
from crosslogic_orchestrator.fleet import RegistryFleet
from tests.fakes.registry_store import FakeRegistryClock


class Told(RegistryFleet):
    """A fleet that is told by the test; None ends a watch."""

    def __init__(self, clock: FakeRegistryClock) -> None:
        self.messages: asyncio.Queue[pb.WatchNodesResponse | None] = asyncio.Queue()
        self.was_lost = asyncio.Event()
        super().__init__(
            channels=Channels(TlsFiles(*[Path()] * 3)),
            target="nowhere:1",
            changed=asyncio.Event(),
            told=lambda _: None,
            lost=self.was_lost.set,
            clock=clock,
        )

    async def _watch(self) -> AsyncIterator[pb.WatchNodesResponse]:
        while (message := await self.messages.get()) is not None:
            yield message

    async def take(self, status: "pb.NodeStatus.ValueType", *, first: bool = False) -> None:
        node = pb.Node(id="n", status=status)
        self.messages.put_nowait(pb.WatchNodesResponse(nodes=[node], snapshot_start=first, snapshot_complete=first))
        async with asyncio.timeout(5):
            while not self.messages.empty():
                await asyncio.sleep(0)
            await asyncio.sleep(0)

    def dead_since(self) -> datetime | None:
        found = self.node("n")
        assert found is not None
        return found.dead_since


async def test_since_when_a_node_is_dead_is_known_unless_the_registry_was_away_since() -> None:
    clock = FakeRegistryClock()
    fleet = Told(clock)
    following = asyncio.create_task(fleet.follow())
    try:
        await fleet.take(pb.NODE_STATUS_WARMING, first=True)
        assert fleet.dead_since() is None
        began = clock.now()
        await fleet.take(pb.NODE_STATUS_DEAD)
        clock.pass_s(100)
        await fleet.take(pb.NODE_STATUS_DEAD)
        assert fleet.dead_since() == began
        await fleet.take(pb.NODE_STATUS_WARMING)
        assert fleet.dead_since() is None
        await fleet.take(pb.NODE_STATUS_DEAD)
        assert fleet.dead_since() == began + timedelta(seconds=100)
        fleet.messages.put_nowait(None)
        async with asyncio.timeout(5):
            await fleet.was_lost.wait()
        assert fleet.dead_since() is None, "it may have come back, and nobody tells"
        clock.pass_s(100)
        await fleet.take(pb.NODE_STATUS_DEAD, first=True)
        assert fleet.dead_since() == began + timedelta(seconds=200)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
