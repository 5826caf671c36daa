"""A model goes from one version to the next under load: a bad one goes back by itself, a good one comes in."""

import asyncio
import contextlib
import json
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest

from crosslogic_dev.suite import Suite
from tests.e2e.conftest import simulated
from tests.fakes.e2e_load import Load, Seen

CLIENTS = 8
PATIENCE_S = 60.0
RULES = {"steps_percent": [20, 60, 100], "step_s": 1, "step_requests": 10, "max_first_token_ratio": 100, "lost_s": 20}


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    settings = {"registry": {"CROSSLOGIC_HEARTBEAT_INTERVAL_MS": "500"}}
    for number, version in ((1, "v1"), (2, "v1"), (3, "v2"), (4, "v2")):
        settings[f"node_agent-{number}"] = {"CROSSLOGIC_MODEL_VERSION": version}
    with simulated(nodes=4, settings=settings) as started:
        yield started


@contextlib.asynccontextmanager
async def load(suite: Suite) -> AsyncIterator[list[Seen]]:
    """Clients that ask one thing after the other, streamed and not; what each saw of it."""
    all_seen: list[Seen] = []
    stop = asyncio.Event()

    async def client(load: Load) -> None:
        while not stop.is_set():
            seen = Seen(stream=len(all_seen) % 2 == 0)
            all_seen.append(seen)
            await load.one(len(all_seen), seen)

    async with Load(suite, max_tokens=6) as made, asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client(made))
        try:
            yield all_seen
        finally:
            stop.set()


async def until(suite: Suite, upgrade: Mapping[str, Any], **wanted: object) -> Mapping[str, Any]:
    """The upgrade once it is as `wanted`, whoever of the control plane is away meanwhile."""
    found: Mapping[str, Any] = {}
    async with asyncio.timeout(PATIENCE_S):
        while not wanted.items() <= found.items():
            await asyncio.sleep(0.05)
            answer = await asyncio.to_thread(suite.admin.ask, "GET", f"/admin/upgrades/{upgrade['id']}")
            found = answer.body if answer.status == 200 else found
    return found


def start(suite: Suite, **rules: int) -> Mapping[str, Any]:
    path = f"/admin/models/{suite.model_name}/upgrades"
    return suite.admin.must("POST", path, {"to_version": "v2", "from_version": "v1", "rules": {**RULES, **rules}})


def fault(suite: Suite, number: int, faults: Mapping[str, object]) -> None:
    request = urllib.request.Request(  # our own engine, always http
        f"http://{suite.target(f'engine-{number}')}/sim/faults", data=json.dumps(faults).encode(), method="POST"
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        assert answer.status == 200


async def more(seen: list[Seen], requests: int) -> None:
    """Waits until so many more were asked."""
    enough = len(seen) + requests
    async with asyncio.timeout(PATIENCE_S):
        while len(seen) < enough:
            await asyncio.sleep(0.01)


async def test_a_bad_version_goes_back_by_itself_and_a_good_one_comes_in_and_no_request_fails(suite: Suite) -> None:
    async with load(suite) as seen:
        # Retries are a share of the traffic: there must be some.
        await more(seen, 200)
        # It stays at its first step until it goes back, however slow this machine is.
        bad = await asyncio.to_thread(start, suite, step_s=3600)
        await until(suite, bad, phase="shifting")
        for number in (3, 4):
            await asyncio.to_thread(fault, suite, number, {"status": 503})
        bad = await until(suite, bad, phase="rolled_back")
        assert "failed on the new version" in bad["reason"]
        assert bad["new_outcomes"]["failed"] >= 3

        for number in (3, 4):
            await asyncio.to_thread(fault, suite, number, {})
        good = await asyncio.to_thread(start, suite)
        await until(suite, good, phase="shifting")
        # Whoever runs the upgrade and whoever applies it may die under way.
        await asyncio.to_thread(suite.restart, "registry", signal.SIGKILL)
        await asyncio.to_thread(suite.restart, "scheduler", signal.SIGKILL)
        good = await until(suite, good, phase="done")
        assert good["percent"] == 100
        await more(seen, 100)

    assert [each for each in seen if not each.complete] == []
    nodes = suite.admin.must("GET", "/admin/nodes")["data"]
    assert sorted(node["status"] for node in nodes) == ["active", "active", "draining", "draining"]
