"""6: each cloud's notice, one that cannot be read, and none: no new placement after it; the same for clients in all."""

import asyncio
import contextlib
import json
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from crosslogic.registry.v1 import registry_pb2 as pb
from tests.chaos.checker import check
from tests.chaos.world import STEP_MS, World
from tests.fakes.e2e_nodes import JoinedNode, fleet, joined, node_of, operator
from tests.fakes.node_agent_clouds import FakeAws, FakeAzure, FakeGcp

STREAMS = 60
WAYS = ("aws", "gcp", "azure", "unreadable", "none")
WINDOW_S = 2.0
"""For requests to end before the rest is handed over; the clouds' own times less what the setting takes."""
SEEN_S = 1.0
"""After the notice was told, and nothing new may come."""
TOLD_WITHIN_S = 20.0


async def run(world: World) -> None:
    """One machine for each way, one after the other; requests go on coming all the while."""
    for number, way in enumerate(WAYS):
        with tempfile.TemporaryDirectory() as folder:
            await _one_machine(world, way, Path(folder), first=1000 * number)


async def _one_machine(world: World, way: str, folder: Path, *, first: int) -> None:
    count = world.scaled(STREAMS, least=16)
    asked = [world.a_request(first + each, stream=True, max_tokens=100) for each in range(count)]
    async with _cloud(way) as (settings, announce), operator(world.suite) as registry:
        others = {each.id for each in await fleet(registry)}
        async with joined(world.suite, folder / "node", step_ms=STEP_MS, **settings) as node:
            known = await node_of(registry, spot=True, besides=others)
            running = [asyncio.create_task(world.client.ask(each)) for each in asked]
            await asyncio.sleep(60 * STEP_MS / 1000 * world.chance.uniform(0.2, 0.8))
            announce(node)
            if way != "none":
                async with asyncio.timeout(TOLD_WITHIN_S):
                    while not any(each.id == known.id and _is_told(each) for each in await fleet(registry)):
                        await asyncio.sleep(0.02)
            await asyncio.sleep(SEEN_S)
            before = await _taken(node)
            late = [world.a_request(first + 500 + each, max_tokens=3) for each in range(12)]
            await asyncio.gather(*(world.client.ask(each) for each in late))
            after = await _taken(node)
            assert after in (before, -1), f"{way}: {after - before} new requests after the notice"
            await asyncio.gather(*running)
        check(world, [*asked, *late])


def _is_told(node: pb.Node) -> bool:
    return node.HasField("spot_notice") or node.status in (pb.NODE_STATUS_DRAINING, pb.NODE_STATUS_DEAD)


async def _taken(node: JoinedNode) -> int:
    """Requests that the machine's engine has taken; -1: it is gone."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(node.folder / "engine.sock"))
        writer.write(b"GET /sim/state HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n")
        body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")[2]
        writer.close()
        return int(json.loads(body)["records"])
    except (OSError, ValueError):
        return -1


@contextlib.asynccontextmanager
async def _cloud(way: str) -> AsyncIterator[tuple[dict[str, Any], Callable[[JoinedNode], None]]]:
    """The agent's settings, and what announces the machine's end."""
    settings: dict[str, Any] = {"CROSSLOGIC_SPOT": "1"}
    if way == "none":
        yield settings, lambda node: node.kill(signal.SIGKILL)
        return
    aws, gcp, azure = FakeAws(), FakeGcp(), FakeAzure()
    announcements: dict[str, tuple[FakeAws | FakeGcp | FakeAzure, Callable[[], object], float]] = {
        "aws": (aws, lambda: aws.interrupt(in_s=120), 120.0),
        "gcp": (gcp, lambda: gcp.change("TRUE"), 30.0),
        "azure": (azure, lambda: azure.schedule(in_s=30), 30.0),
        "unreadable": (aws, lambda: setattr(aws, "action", {"action": "?"}), 120.0),
    }
    cloud, announce, warning_s = announcements[way]
    async with cloud.serving():
        settings |= {
            "CROSSLOGIC_SPOT_SOURCES": "aws" if way == "unreadable" else way,
            "CROSSLOGIC_SPOT_METADATA_URL": cloud.url,
            "CROSSLOGIC_SPOT_HANDOVER_S": str(warning_s - WINDOW_S),
        }
        yield settings, lambda _node: _nothing(announce())


def _nothing(_result: object) -> None:
    return
