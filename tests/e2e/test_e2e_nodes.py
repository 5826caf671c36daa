"""Nodes that come and go: behind NAT, of one organisation only, and on machines that their cloud takes back."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_dev.suite import Suite
from tests.e2e.conftest import simulated
from tests.fakes.e2e_load import Load, Seen, running, wait_for
from tests.fakes.e2e_nodes import JoinedNode, descendants, fleet, joined, node_of, operator
from tests.fakes.e2e_ports import two_free_ports

ACTIVE, DRAINING, DEAD = pb.NODE_STATUS_ACTIVE, pb.NODE_STATUS_DRAINING, pb.NODE_STATUS_DEAD
WORKERS = 2


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    gateway = {"CROSSLOGIC_WORKERS": str(WORKERS), "CROSSLOGIC_TUNNEL_LISTEN": f"127.0.0.1:{two_free_ports()}"}
    with simulated(step_ms=20, settings={"gateway": gateway}) as started:
        yield started


async def take_out(registry: "rpc.RegistryServiceAsyncStub") -> str:
    """Drains the suite's own node, so that others serve; its id."""
    [own] = [node for node in await fleet(registry) if node.status == ACTIVE and not node.org_id and node.facts.address]
    await registry.DrainNode(pb.DrainNodeRequest(node_id=own.id))
    return own.id


async def put_back(registry: "rpc.RegistryServiceAsyncStub", node_id: str) -> None:
    """Takes the drain back, and waits until the node serves again."""
    await registry.ResumeNode(pb.ResumeNodeRequest(node_id=node_id))
    async with asyncio.timeout(20):
        while not any(node.id == node_id and node.status == ACTIVE for node in await fleet(registry)):
            await asyncio.sleep(0.02)


async def ask(suite: Suite, key: str) -> int:
    """The status of one small request on a connection of its own."""
    body = {"model": suite.model_name, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{suite.base_url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
        ) as answer,
    ):
        await answer.read()
        return answer.status


async def until_served(suite: Suite, key: str, status: int = 200) -> None:
    """Waits until a key's requests are answered like this: the scheduler hears of nodes a moment after the registry."""
    async with asyncio.timeout(20):
        while await ask(suite, key) != status:
            await asyncio.sleep(0.05)


async def test_node_behind_nat_serves_every_gateway_worker_and_listens_nowhere(suite: Suite, tmp_path: Path) -> None:
    async with operator(suite) as registry, joined(suite, tmp_path / "nat", tunnel=True) as node:
        behind = await node_of(registry, tunnel=True)
        assert behind.facts.address == ""
        await wait_for(lambda: node.log.count("tunnel open") == WORKERS)
        own = await take_out(registry)
        try:
            await until_served(suite, suite.api_key)
            statuses = [await ask(suite, suite.api_key) for _ in range(40)]
            assert set(statuses) == {200}
            seen = [Seen(stream=number % 2 == 0) for number in range(20)]
            async with Load(suite, max_tokens=20) as load, running(load, seen):
                await wait_for(lambda: any(each.content_chunks for each in seen))
                assert node.listening_sockets() == []
            assert [each for each in seen if not each.complete] == []
        finally:
            await put_back(registry, own)


def worker_pids(suite: Suite) -> list[int]:
    """The gateway's workers."""
    supervisor = suite.pid("gateway")
    assert supervisor is not None
    return descendants(supervisor)


def is_running(pid: int) -> bool:
    """Whether the process is there; one that ended and was not collected has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


async def test_tunnels_outlive_the_registry_and_come_back_to_gateways_that_died(suite: Suite, tmp_path: Path) -> None:
    async with operator(suite) as registry, joined(suite, tmp_path / "nat", tunnel=True):
        await node_of(registry, tunnel=True)
        own = await take_out(registry)
        try:
            await until_served(suite, suite.api_key)
            await asyncio.to_thread(suite.kill, "registry")
            assert {await ask(suite, suite.api_key) for _ in range(10)} == {200}
            await asyncio.to_thread(suite.start, "registry")
            before = worker_pids(suite)
            assert len(before) == WORKERS
            await asyncio.to_thread(suite.restart, "gateway")
            await until_served(suite, suite.api_key)
            async with asyncio.timeout(30):
                # Both workers: each connection ends at one of them.
                while {await ask(suite, suite.api_key) for _ in range(20)} != {200}:
                    await asyncio.sleep(0.1)
            # What a killed supervisor leaves behind finishes and ends.
            await wait_for(lambda: not any(map(is_running, before)), timeout_s=60)
        finally:
            await put_back(registry, own)


async def test_node_of_one_organisation_serves_that_one_and_nobody_else(suite: Suite, tmp_path: Path) -> None:
    limits = {"requests_per_minute": 100_000}
    org = suite.admin.must("POST", "/admin/orgs", {"name": "Owner of a machine", "limits": limits})["id"]
    environment = suite.admin.must("POST", f"/admin/orgs/{org}/environments", {"name": "e", "limits": limits})["id"]
    key = suite.admin.must("POST", f"/admin/environments/{environment}/keys", {"name": "k", "limits": limits})["key"]
    async with operator(suite) as registry, joined(suite, tmp_path / "owned", org_id=org) as node:
        await node_of(registry, org_id=org)
        own = await take_out(registry)
        try:
            await until_served(suite, key)
            assert {await ask(suite, key) for _ in range(5)} == {200}
            assert {await ask(suite, suite.api_key) for _ in range(5)} == {503}
        finally:
            await put_back(registry, own)
        await until_served(suite, suite.api_key)
        assert "another organisation" not in node.log


async def accepted(node: JoinedNode) -> int:
    """Requests that the node's engine has taken so far; -1: it is gone."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(node.folder / "engine.sock"))
        writer.write(b"GET /sim/state HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n")
        body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")[2]
        writer.close()
        return int(json.loads(body)["records"])
    except (OSError, ValueError):
        return -1


async def test_spot_notice_while_100_streams_run_fails_none_and_brings_nothing_new_after_a_second(
    suite: Suite, tmp_path: Path
) -> None:
    # The file's notice leaves 30 s, of which the last 28 are for handing over: two seconds to finish.
    spot: dict[str, Any] = {
        "CROSSLOGIC_SPOT_SOURCES": "file",
        "CROSSLOGIC_SPOT": "1",
        "CROSSLOGIC_SPOT_HANDOVER_S": "28",
    }
    async with operator(suite) as registry, joined(suite, tmp_path / "spot", step_ms=40, **spot) as node:
        doomed = await node_of(registry, spot=True)
        loop = asyncio.get_running_loop()
        seen = [Seen(stream=True) for _ in range(100)]
        later = [Seen(stream=True) for _ in range(200)]
        async with Load(suite, max_tokens=110) as load, running(load, seen):
            await wait_for(lambda: all(each.content_chunks > 2 or each.error for each in seen), timeout_s=40)
            assert [each for each in seen if each.error] == []
            assert await accepted(node) > 20, "the node had no share worth the name"
            (tmp_path / "spot" / "state" / "spot-notice").touch()
            noticed_at = loop.time()
            counts: list[tuple[float, int]] = []
            # New requests go on coming all the while.
            async with Load(suite, max_tokens=2) as small:
                while (count := await accepted(node)) >= 0 and loop.time() < noticed_at + 20:
                    counts.append((loop.time() - noticed_at, count))
                    if len(counts) <= len(later):
                        await small.one(len(counts), later[len(counts) - 1])
                    await asyncio.sleep(0.02)
        after_a_second = {count for at, count in counts if at > 1.0}
        assert len(after_a_second) == 1, counts
        assert [each for each in seen if not each.complete] == []
        assert [each for each in later[: len(counts)] if not each.complete] == []
        assert {each.completion_tokens for each in seen} == {110}
        assert await asyncio.wait_for(node.process.wait(), 20) == 0
        [gone] = [each for each in await fleet(registry) if each.id == doomed.id]
        assert gone.status == DEAD
        assert gone.status_reason.startswith("spot notice from file")
        assert gone.spot_notice.HasField("notice_time")
        events = (await registry.ListNodeEvents(pb.ListNodeEventsRequest(node_id=doomed.id))).events
        assert [event.status for event in events][:2] == [DEAD, DRAINING]
        assert all(event.reason.startswith("spot notice from file") for event in events[:2])
