"""Nodes that come and go: behind NAT, of one organisation only, and on machines that their cloud takes back."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_dev.failure import DevError
from crosslogic_dev.suite import Suite
from tests.e2e.conftest import simulated
from tests.fakes.e2e_ledger import Ledger
from tests.fakes.e2e_load import Load, Seen, running, wait_for
from tests.fakes.e2e_nodes import JoinedNode, descendants, fleet, joined, node_of, operator
from tests.fakes.e2e_ports import two_free_ports
from tests.fakes.strict_openai import KEY, PROMPT_TOKENS, StrictOpenAi, strict_openai
from tests.fakes.strict_openai import MODEL as UPSTREAM

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


EXTERNAL = "acme-large"
PROMPT_PRICE, COMPLETION_PRICE = 150_000, 600_000


def registered(suite: Suite) -> Mapping[str, Any]:
    """The external model, as an operator sees it."""
    return next(row for row in suite.admin.all_of("/admin/registered-models") if row["name"] == EXTERNAL)


async def until_it_is(suite: Suite, status: str) -> Mapping[str, Any]:
    async with asyncio.timeout(30):
        while (found := await asyncio.to_thread(registered, suite))["status"] != status:
            await asyncio.sleep(0.05)
    return found


async def test_external_endpoint_is_registered_relayed_to_and_billed(suite: Suite, tmp_path: Path) -> None:
    with strict_openai(tmp_path / "upstream") as upstream:
        url = f"https://localhost:{upstream.port}/v1"
        new = {
            "model": EXTERNAL,
            "environment": "production",
            "endpoint": url,
            "context_length": 8192,
            "prompt_price_picodollars": PROMPT_PRICE,
            "completion_price_picodollars": COMPLETION_PRICE,
        }
        assert suite.admin.must("POST", "/admin/registered-models", new)["status"] == "no_nodes"
        (tmp_path / "key").write_text(f"{KEY}\n")
        settings = {
            "CROSSLOGIC_EXTERNAL_CA_FILE": str(upstream.ca_file),
            "CROSSLOGIC_EXTERNAL_NETWORKS": "127.0.0.0/8,::1/128",
            # What a request finds out is told at once, whenever the next look is due.
            "CROSSLOGIC_EXTERNAL_CHECK_S": "600",
        }
        async with relaying(suite, url, tmp_path / "key", settings) as relay, client(suite) as session:
            row = await until_it_is(suite, "serving")
            assert (row["endpoint"], row["serving_nodes"]) == (url, 1)
            assert row["health_time"] is not None
            first = await until_answered(session)
            await check_a_stream(session, suite, first)
            await check_failures(session, suite, upstream)
            logs = [suite.log(name) for name in (relay, "gateway", "registry", "scheduler", "accountant")]
            assert [log for log in logs if KEY in log] == []
        for asked in upstream.answered:
            told = json.dumps([asked.headers, asked.body])
            assert [secret for secret in (suite.org_id, suite.api_key, "alice", "x-crosslogic") if secret in told] == []


@contextlib.asynccontextmanager
async def relaying(suite: Suite, url: str, key: Path, settings: dict[str, str]) -> AsyncIterator[str]:
    """`make external`, and the name of the relay that it started; gone at the end of the block."""
    asked = ["--model", EXTERNAL, "--its-model", UPSTREAM, "--url", url, "--key-file", str(key)]
    made = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "crosslogic_dev", "--root", str(suite.run_dir.path.parent), "external", *asked),
        env=os.environ | settings,
    )
    name = f"node_agent-{EXTERNAL}"
    try:
        assert await asyncio.wait_for(made.wait(), 90) == 0, suite.log(name)
        yield name
    finally:
        with contextlib.suppress(DevError):
            await asyncio.to_thread(suite.kill, name, signal.SIGTERM)


@contextlib.asynccontextmanager
async def client(suite: Suite) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {suite.api_key}"}
    async with aiohttp.ClientSession(f"{suite.base_url}/v1/", headers=headers) as session:
        yield session


def steered(*, stream: bool = False, **steer: Any) -> dict[str, Any]:
    body = {"model": EXTERNAL, "user": "alice", "messages": [{"role": "user", "content": json.dumps(steer)}]}
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


async def until_answered(session: aiohttp.ClientSession) -> str:
    """The id of the first whole answer: the catalogue and the scheduler hear of the model a moment later."""
    async with asyncio.timeout(30):
        while True:
            async with session.post("chat/completions", json=steered(tokens=3)) as answer:
                if answer.status == 200:
                    said = await answer.json()
                    assert (said["model"], said["usage"]["completion_tokens"]) == (EXTERNAL, 3)
                    return answer.headers["X-CrossLogic-Request-ID"]
            await asyncio.sleep(0.05)


async def check_a_stream(session: aiohttp.ClientSession, suite: Suite, whole_id: str) -> None:
    """A stream comes as OpenAI's does, and both are in the ledger by the endpoint's own count."""
    async with session.post("chat/completions", json=steered(tokens=5, stream=True)) as answer:
        assert answer.status == 200
        lines = (await answer.text()).split("\n\n")
        stream_id = answer.headers["X-CrossLogic-Request-ID"]
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-1]) == "yyyyy"
    assert chunks[-1]["usage"]["completion_tokens"] == 5
    ledger = Ledger(suite)
    for request_id, tokens in ((whole_id, 3), (stream_id, 5)):
        record = await asyncio.to_thread(ledger.record, request_id)
        assert (record["prompt_tokens"], record["completion_tokens"]) == (PROMPT_TOKENS, tokens)
        assert record["count_source"] == "engine_final"
        assert int(record["cost_picodollars"]) == PROMPT_TOKENS * PROMPT_PRICE + tokens * COMPLETION_PRICE


async def check_failures(session: aiohttp.ClientSession, suite: Suite, upstream: StrictOpenAi) -> None:
    """What fails there is told in this suite's words."""
    broken = steered(tokens=9, after=4, delay_ms=20, fault="cut", stream=True)
    async with session.post("chat/completions", json=broken) as answer:
        assert answer.status == 200
        text = await answer.text()
        assert "[DONE]" not in text
        assert json.loads(text.split("data: ")[-1])["error"]["code"] == "engine_error"
        record = await asyncio.to_thread(Ledger(suite).record, answer.headers["X-CrossLogic-Request-ID"])
        assert (record["outcome"], int(record["cost_picodollars"])) == ("failed", 0)
    async with session.post("chat/completions", json=steered(status=429, retry_after="17")) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "17")
    for path, body in (
        ("chat/completions", steered() | {"top_k": 3}),
        ("responses", {"model": EXTERNAL, "input": "a"}),
    ):
        async with session.post(path, json=body) as answer:
            assert answer.status in (400, 404)
    upstream.takes_key = False
    async with session.post("chat/completions", json=steered()) as answer:
        assert answer.status in (502, 503)
        assert "key" not in (await answer.text()).lower()
    await until_it_is(suite, "no_nodes")
    async with operator(suite) as registry:
        [node] = [each for each in await fleet(registry) if EXTERNAL in each.facts.models]
        assert "does not take our key" in node.status_reason
        assert (node.facts.engine, node.facts.gpu_count, node.facts.hourly_price_picodollars) == ("external", 0, 0)
