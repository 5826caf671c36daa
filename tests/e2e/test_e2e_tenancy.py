"""What a tenant's administrator decides holds in every gateway worker: one suite, three workers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from crosslogic_dev.suite import Suite
from crosslogic_dev.waiting import wait_until
from tests.e2e.conftest import simulated
from tests.fakes.e2e_ledger import Ledger

WORKERS = 3
STREAMS = 18
"""Each on a connection of its own, which the kernel deals out to the workers."""
WITHIN_S = 1.0
"""What the suite promises of a suspension."""


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    settings = {
        "gateway": {"CROSSLOGIC_WORKERS": str(WORKERS), "CROSSLOGIC_ABUSE_INVALID_REQUESTS": "15"},
    }
    with simulated(settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def ledger(suite: Suite) -> Ledger:
    return Ledger(suite)


def make_tenant(suite: Suite, **key: Any) -> dict[str, Any]:
    org = suite.admin.must("POST", "/admin/orgs", {"name": "Acme"})
    environment = suite.admin.must("POST", f"/admin/orgs/{org['id']}/environments", {"name": "e"})
    made = suite.admin.must("POST", f"/admin/environments/{environment['id']}/keys", key)
    assert isinstance(made, dict)
    return made


def body(suite: Suite, **more: Any) -> dict[str, Any]:
    return {"model": suite.model_name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, **more}


@asynccontextmanager
async def calling(suite: Suite) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that opens a connection for each request."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(suite.base_url, connector=connector, timeout=timeout) as session:
        yield session


async def ask(session: aiohttp.ClientSession, suite: Suite, secret: str, **more: Any) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {secret}"}
    async with session.post("/v1/chat/completions", json=body(suite, **more), headers=headers) as answer:
        found = await answer.json()
        return answer.status, found.get("error", {}).get("code", "")


async def read_stream(
    session: aiohttp.ClientSession, suite: Suite, secret: str, begun: asyncio.Event
) -> tuple[float, str, bytes]:
    """When a long stream ended, its request's id and its last lines."""
    headers = {"Authorization": f"Bearer {secret}"}
    long = body(suite, stream=True, max_tokens=2_000)
    async with session.post("/v1/chat/completions", json=long, headers=headers) as answer:
        assert answer.status == 200
        text = b""
        async for chunk in answer.content.iter_any():
            text += chunk
            begun.set()
        return time.monotonic(), answer.headers["X-CrossLogic-Request-ID"], text


@pytest.mark.parametrize("scope", ["orgs", "environments", "keys"])
async def test_streams_of_a_suspended_tenant_end_within_a_second_in_every_worker(
    suite: Suite, ledger: Ledger, scope: str
) -> None:
    tenant, bystander = make_tenant(suite), make_tenant(suite)
    id_ = {"orgs": tenant["org_id"], "environments": tenant["environment_id"], "keys": tenant["id"]}[scope]
    async with calling(suite) as session:
        begun = [asyncio.Event() for _ in range(STREAMS + 1)]
        streams = [asyncio.create_task(read_stream(session, suite, tenant["key"], event)) for event in begun[:STREAMS]]
        other = asyncio.create_task(read_stream(session, suite, bystander["key"], begun[-1]))
        async with asyncio.timeout(30):
            await asyncio.gather(*(event.wait() for event in begun))
        suspension = {"status": "suspended", "status_reason": "unpaid", "cut_streams": True}
        await asyncio.to_thread(suite.admin.must, "PATCH", f"/admin/{scope}/{id_}", suspension)
        told_at = time.monotonic()
        async with asyncio.timeout(30):
            ended = await asyncio.gather(*streams)
        slowest_s = max(at for at, _, _ in ended) - told_at
        print(f"{STREAMS} streams ended {slowest_s * 1000:.0f} ms after the suspension was acknowledged")
        assert slowest_s < WITHIN_S
        for _, _, text in ended:
            last = text.strip().rpartition(b"data: ")[2]
            assert json.loads(last)["error"]["code"] == "tenant_suspended"
            assert b"[DONE]" not in text
        assert await ask(session, suite, tenant["key"]) == (403, "tenant_suspended")
        assert not other.done()
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
    # What was delivered is paid for.
    for _, request_id, _ in ended:
        record = ledger.record(request_id)
        assert record["completion_tokens"] > 0
        assert int(record["cost_picodollars"]) > 0


async def test_a_suspension_without_cut_lets_streams_finish_and_refuses_what_comes_next(suite: Suite) -> None:
    tenant = make_tenant(suite)
    async with calling(suite) as session:
        headers = {"Authorization": f"Bearer {tenant['key']}"}
        asked = body(suite, stream=True, max_tokens=60)
        async with session.post("/v1/chat/completions", json=asked, headers=headers) as answer:
            await answer.content.readany()
            await asyncio.to_thread(suite.admin.must, "PATCH", f"/admin/keys/{tenant['id']}", {"status": "suspended"})
            text = await answer.content.read()
        assert text.strip().endswith(b"data: [DONE]")
        assert await refused_everywhere(session, suite, tenant["key"]) == {(403, "tenant_suspended")}


async def refused_everywhere(session: aiohttp.ClientSession, suite: Suite, secret: str) -> set[tuple[int, str]]:
    """What all workers say once none lets the key in any more; within a second."""
    until = time.monotonic() + WITHIN_S
    while True:
        answers = set(await asyncio.gather(*(ask(session, suite, secret) for _ in range(2 * WORKERS))))
        if (200, "") not in answers:
            return answers
        assert time.monotonic() < until, answers


async def test_a_revoked_key_cuts_its_streams_when_asked_and_is_unknown_at_once(suite: Suite) -> None:
    tenant = make_tenant(suite)
    async with calling(suite) as session:
        begun = asyncio.Event()
        stream = asyncio.create_task(read_stream(session, suite, tenant["key"], begun))
        async with asyncio.timeout(30):
            await begun.wait()
        await asyncio.to_thread(suite.admin.must, "DELETE", f"/admin/keys/{tenant['id']}?cut_streams=true")
        async with asyncio.timeout(30):
            _, _, text = await stream
        assert b"tenant_suspended" in text
        assert await refused_everywhere(session, suite, tenant["key"]) == {(401, "invalid_api_key")}


async def test_a_rotation_keeps_both_keys_for_the_overlap_and_without_one_only_the_new(suite: Suite) -> None:
    tenant = make_tenant(suite)
    async with calling(suite) as session:
        path = f"/admin/keys/{tenant['id']}/rotate"
        second = await asyncio.to_thread(suite.admin.must, "POST", path, {"overlap_s": 3600})
        for secret in (tenant["key"], second["key"]):
            assert (await ask(session, suite, secret))[0] == 200
        path = f"/admin/keys/{second['id']}/rotate"
        third = await asyncio.to_thread(suite.admin.must, "POST", path, {"overlap_s": 0})
        assert await refused_everywhere(session, suite, second["key"]) == {(401, "invalid_api_key")}
        for secret in (tenant["key"], third["key"]):
            assert (await ask(session, suite, secret))[0] == 200


async def test_a_key_is_used_from_its_networks_only(suite: Suite) -> None:
    inside = make_tenant(suite, allowed_cidrs=["127.0.0.0/8", "::1/128"])
    outside = make_tenant(suite, allowed_cidrs=["192.0.2.0/24"])
    async with calling(suite) as session:
        assert (await ask(session, suite, inside["key"]))[0] == 200
        assert await ask(session, suite, outside["key"]) == (403, "permission_denied")
        # What a client says of itself is not believed: it is no trusted proxy.
        headers = {"Authorization": f"Bearer {outside['key']}", "X-Forwarded-For": "192.0.2.7"}
        async with session.get("/v1/models", headers=headers) as answer:
            assert answer.status == 403


async def test_a_key_that_sends_nonsense_is_suspended_with_the_reason_in_the_audit_log(suite: Suite) -> None:
    tenant = make_tenant(suite)
    async with calling(suite) as session:
        # Every worker may count up to the limit before one of them acts; what it does then takes its time.
        answers: list[tuple[int, str]] = []
        async with asyncio.timeout(30):
            while (403, "tenant_suspended") not in answers:
                answers = await asyncio.gather(*(ask(session, suite, tenant["key"], max_tokens=-1) for _ in range(10)))
        assert await refused_everywhere(session, suite, tenant["key"]) == {(403, "tenant_suspended")}
    listed = suite.admin.must("GET", f"/admin/audit?object_id={tenant['id']}&action=api_key.update")
    record = listed["data"][0]
    assert (record["actor"]["kind"], record["after"]["status"]) == ("system", "suspended")
    assert "not valid" in record["reason"]
    verdict = suite.admin.must("GET", "/admin/audit/verify")
    assert verdict["intact"], verdict


def test_a_changed_limit_of_a_plan_holds_within_a_second(suite: Suite) -> None:
    admin = suite.admin
    name = "tenancy-test"
    admin.must("POST", "/admin/plans", {"name": name})
    tenant = make_tenant(suite)
    admin.must("PATCH", f"/admin/orgs/{tenant['org_id']}", {"plan": name})
    assert wait_until(lambda: admin.key_works(tenant["key"]), timeout_s=5.0, poll_s=0.02)
    admin.must("PATCH", f"/admin/plans/{name}", {"max_output_tokens": 3})
    began = time.monotonic()

    def is_refused() -> bool:
        return asyncio.run(_ask_once(suite, tenant["key"])) == (400, "invalid_request")

    assert wait_until(is_refused, timeout_s=WITHIN_S, poll_s=0.01)
    assert time.monotonic() - began < WITHIN_S


async def _ask_once(suite: Suite, secret: str) -> tuple[int, str]:
    async with calling(suite) as session:
        return await ask(session, suite, secret)
