"""7: 60 % of the nodes fall silent at once: nobody is evicted, last-known routes stay, clients are served."""

import asyncio
import contextlib
import os
import signal
import tempfile
from pathlib import Path
from typing import TypeAlias

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from tests.chaos.checker import check
from tests.chaos.world import STEP_MS, World
from tests.fakes.e2e_nodes import JoinedNode, descendants, fleet, joined, operator

Registry: TypeAlias = "rpc.RegistryServiceAsyncStub"
MORE_NODES = 5
"""Beside the suite's three: five of eight are silent."""
MAY_FAIL = 0.05
SILENT_S = 70.0
"""Longer than the registry waits before it gives a node up."""


async def run(world: World) -> None:
    """The nodes are frozen, and go on later."""
    with tempfile.TemporaryDirectory() as folder:
        async with contextlib.AsyncExitStack() as stack:
            registry = await stack.enter_async_context(operator(world.suite))
            nodes = [
                await stack.enter_async_context(joined(world.suite, Path(folder) / str(number), step_ms=STEP_MS))
                for number in range(MORE_NODES)
            ]
            async with asyncio.timeout(60):
                while await _active(registry) < MORE_NODES + world.suite.nodes:
                    await asyncio.sleep(0.1)
            dead = await _dead(registry)
            asked = [world.a_request(number) for number in range(world.scaled(60, least=12))]
            running = [asyncio.create_task(world.client.ask(each)) for each in asked]
            await asyncio.sleep(0.5)
            for node in nodes:
                _signal(node, signal.SIGSTOP)
            try:
                loop = asyncio.get_running_loop()
                until = loop.time() + max(SILENT_S * world.size, 5.0)
                number = 1000
                while loop.time() < until:
                    late = [world.a_request(number + each, max_tokens=4) for each in range(4)]
                    number += len(late)
                    asked += late
                    await asyncio.gather(*(world.client.ask(each) for each in late))
                    assert await _dead(registry) == dead, "a node was evicted"
                    await asyncio.sleep(0.5)
            finally:
                for node in nodes:
                    _signal(node, signal.SIGCONT)
            await asyncio.gather(*running)
            async with asyncio.timeout(60):
                while await _active(registry) < MORE_NODES + world.suite.nodes:
                    await asyncio.sleep(0.1)
        # A request that meets three frozen nodes in a row ends with a clean error: three tries are all it has.
        check(world, asked, may_fail=True)
        failed = sum(not each.complete for each in asked)
        assert failed <= MAY_FAIL * len(asked), f"{failed} of {len(asked)} failed"


def _signal(node: JoinedNode, number: signal.Signals) -> None:
    for pid in (node.process.pid, *descendants(node.process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


async def _active(registry: Registry) -> int:
    return sum(node.status == pb.NODE_STATUS_ACTIVE for node in await fleet(registry))


async def _dead(registry: Registry) -> set[str]:
    return {node.id for node in await fleet(registry) if node.status == pb.NODE_STATUS_DEAD}
