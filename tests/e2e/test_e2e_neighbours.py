"""Tenants beside each other on a whole suite of two gateway workers: reserved capacity, floods, repeated requests."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psycopg
import pytest

from benchmarks.reserved_capacity import Client, Seen, fleet, tenant, trial
from crosslogic_dev.suite import Suite
from tests.chaos.clients import Client as ChaosClient
from tests.chaos.experiments import e21_one_tenant_floods
from tests.chaos.world import World
from tests.fakes.e2e_ledger import Ledger

ROOT = Path(__file__).parents[2]
TRIES = 5
"""Of a latency: a machine that has something else to do for some seconds is given another chance."""


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with fleet(ROOT) as running:
        yield running


async def test_reserved_capacity_is_there_while_a_neighbour_sends_twenty_times_what_the_fleet_can_do(
    suite: Suite,
) -> None:
    # The median's figure is the benchmark's: here others may use the machine too. A request that had to wait for
    # somebody else's answer would be late by far more, and so would nearly all of them.
    slower: list[float] = []
    while not slower or (slower[-1] > 1.10 and len(slower) < TRIES):
        result = await trial(suite, seconds=3.0, times=20.0)
        assert (result.alone.refused, result.beside.refused) == (0, 0)
        other = result.other
        assert other.statuses[200] > 0, "what the fleet has left is for the neighbour"
        assert other.statuses[429] > other.statuses[200]
        assert other.statuses[429] + other.statuses[200] == other.total
        assert (other.errors, other.without_retry_after) == (0, 0)
        slower.append(result.least_slower)
    assert slower[-1] <= 1.10, slower


async def test_a_tenant_at_fifty_times_its_limit_is_not_noticed_by_the_others(suite: Suite) -> None:
    async with ChaosClient(suite) as client:
        await e21_one_tenant_floods.run(World(suite, client, random.Random(21), size=0.16))


@pytest.mark.parametrize(("overage", "statuses"), [("shed", {200, 429}), ("bill", {200})])
async def test_what_goes_beyond_reserved_capacity_is_refused_or_billed_as_the_plan_says(
    suite: Suite, overage: str, statuses: set[int]
) -> None:
    key = await asyncio.to_thread(tenant, suite, f"beyond {overage}", reserved=1, overage=overage)
    seen = Seen()
    async with aiohttp.ClientSession() as session:
        client = Client(suite, key, session, patience_s=60.0)
        # 1 CU saved up for 10 s is 10 tokens: after the first request of 30 its worker is in debt.
        await client.one(seen)
        await asyncio.gather(*(client.one(seen) for _ in range(7)))
    assert set(seen.statuses) == statuses
    plans = await asyncio.to_thread(_plans, suite, seen.answered_ids)
    within = plans.count(f"reserved-{overage}")
    assert 1 <= within <= 3, "a request is let in while there is anything left, at each worker"
    assert plans.count(f"reserved-{overage}/overage") == (0 if overage == "shed" else 8 - within)


async def test_repeats_on_every_worker_get_one_answer_that_is_charged_once(suite: Suite) -> None:
    asked = _Keyed(suite, "repeated", stream=True)
    answers = await asyncio.gather(*(asked.ask() for _ in range(12)))
    again = await asked.ask()
    bodies = {body for _, _, body in [*answers, again]}
    assert len(bodies) == 1
    assert bodies.pop().endswith(b"data: [DONE]\n\n")
    (request_id,) = {request_id for _, request_id, _ in [*answers, again]}
    assert {status for status, _, _ in answers} == {200}
    assert await asyncio.to_thread(_times, suite, request_id) == 1


async def test_gateways_killed_in_the_middle_of_a_keyed_request_block_its_repeats_for_seconds_and_charge_once(
    suite: Suite,
) -> None:
    asked = _Keyed(suite, "killed", stream=True)
    async with aiohttp.ClientSession() as session:
        first = await asked.post(session)
        request_id = first.headers["X-CrossLogic-Request-ID"]
        await first.content.readany()
        for pid in _workers(suite):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(aiohttp.ClientError):
            await first.read()
    status, repeated_id, body = await asked.ask_until_answered(timeout_s=60.0)
    assert (status, repeated_id) == (200, request_id)
    assert body.endswith(b"data: [DONE]\n\n")
    assert await asyncio.to_thread(_times, suite, request_id) == 1


async def test_a_repeated_admin_request_makes_one_thing(suite: Suite) -> None:
    environments = f"{suite.base_url}/admin/environments/{suite.environment_id}/keys"
    headers = {"X-Admin-Token": suite.admin.token, "Idempotency-Key": "one-key-only"}
    made = []
    for name in ("mine", "mine", "another"):
        async with (
            aiohttp.ClientSession() as session,
            session.post(environments, json={"name": name}, headers=headers) as answer,
        ):
            made.append((answer.status, await answer.json()))
    assert [status for status, _ in made] == [201, 201, 409]
    assert made[0][1] == made[1][1]


class _Keyed:
    """A request with an Idempotency-Key."""

    def __init__(self, suite: Suite, key: str, *, stream: bool) -> None:
        self._url = f"{suite.base_url}/v1/completions"
        self._body = {"model": suite.model_name, "prompt": "again", "max_tokens": 60, "stream": stream}
        self._headers = {"Authorization": f"Bearer {suite.api_key}", "Idempotency-Key": key}

    async def post(self, session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
        return await session.post(self._url, json=self._body, headers=self._headers)

    async def ask(self) -> tuple[int, str, bytes]:
        """Over a connection of its own, to whichever worker takes it."""
        async with aiohttp.ClientSession() as session, await self.post(session) as answer:
            return answer.status, answer.headers.get("X-CrossLogic-Request-ID", ""), await answer.read()

    async def ask_until_answered(self, timeout_s: float) -> tuple[int, str, bytes]:
        until = time.monotonic() + timeout_s
        while True:
            try:
                answer = await self.ask()
            except aiohttp.ClientError as error:
                answer = (0, repr(error), b"")
            if answer[0] == 200:
                return answer
            assert time.monotonic() < until, answer
            await asyncio.sleep(0.1)


def _workers(suite: Suite) -> list[int]:
    """The gateway's worker processes."""
    pid = suite.pid("gateway")
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _times(suite: Suite, request_id: str) -> int:
    """How often a request is billed, once nothing more comes."""
    ledger = Ledger(suite)
    ledger.record(request_id)
    # A witness of the first run is compared after its time of grace.
    time.sleep(3.0)
    return ledger.holding({request_id})[request_id].times


def _plans(suite: Suite, request_ids: list[str]) -> list[str]:
    """The plans in the ledger, once all records are there."""
    ledger = Ledger(suite)
    for request_id in request_ids:
        ledger.record(request_id)
    with psycopg.connect(suite.database_url, connect_timeout=5) as connection:
        found = connection.execute(
            "SELECT plan FROM ledger.usage_records WHERE request_id = ANY(%s::uuid[])", (request_ids,)
        ).fetchall()
    return [row[0] for row in found]
