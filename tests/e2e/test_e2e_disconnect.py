"""Clients that go away: the engine stops at once, and they pay for what was generated and for nothing else."""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
import pytest

from crosslogic_dev.suite import Suite
from tests.e2e.conftest import simulated
from tests.fakes.e2e_ledger import Ledger
from tests.fakes.e2e_load import wait_for
from tests.fakes.e2e_sim import Sims

STEP_MS = 10
TOLD_WITHIN_S = 0.1
LONG = 4000


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with simulated(step_ms=STEP_MS) as started:
        yield started


def _body(suite: Suite, *, stream: bool) -> dict[str, object]:
    return {"model": suite.model_name, "prompt": "Once upon a time", "max_tokens": LONG, "stream": stream}


def _session(suite: Suite) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {suite.api_key}"}, connector=aiohttp.TCPConnector(limit=0, force_close=True)
    )


async def _leave_after(session: aiohttp.ClientSession, suite: Suite, bytes_read: int) -> tuple[str, float]:
    """Reads that much of a stream, closes the connection; returns the request's id and when it closed."""
    answer = await session.post(f"{suite.base_url}/v1/completions", json=_body(suite, stream=True))
    assert answer.status == 200
    if bytes_read:
        await answer.content.readexactly(bytes_read)
    answer.close()
    return answer.headers["X-Request-ID"], time.time()


def _billed_as_generated(ledger: Ledger, sims: Sims, request_id: str) -> None:
    record = ledger.record(request_id)
    engine = sims.aborted(request_id)
    assert record["outcome"] == "client_disconnected"
    assert (record["prompt_tokens"], record["completion_tokens"]) == (engine["prompt_tokens"], engine["generated"])
    assert record["cost_picodollars"] == (
        engine["prompt_tokens"] * record["prompt_price_picodollars"]
        + engine["generated"] * record["completion_price_picodollars"]
    )


async def test_client_that_leaves_a_stream_stops_the_engine_within_100_ms(
    suite: Suite, ledger: Ledger, sims: Sims
) -> None:
    delays = []
    async with _session(suite) as session:
        for bytes_read in (1, 2_000, 5_000):
            request_id, left_at = await _leave_after(session, suite, bytes_read)
            delays.append((await asyncio.to_thread(sims.aborted, request_id))["aborted_at"] - left_at)
            _billed_as_generated(ledger, sims, request_id)
    assert max(delays) < TOLD_WITHIN_S, delays


async def test_client_that_leaves_before_a_whole_answer_stops_the_engine_too(
    suite: Suite, ledger: Ledger, sims: Sims
) -> None:
    before = sims.aborted_count()
    async with _session(suite) as session:
        asked = asyncio.create_task(session.post(f"{suite.base_url}/v1/completions", json=_body(suite, stream=False)))
        await wait_for(lambda: sims.running() == 1)
        await asyncio.sleep(0.3)  # some tokens' time
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        left_at = time.monotonic()
        await wait_for(lambda: sims.aborted_count() == before + 1, timeout_s=5.0)
    assert time.monotonic() - left_at < TOLD_WITHIN_S * 2
    # Its client never learned the id: it is the only one that left without a stream.

    def records() -> list[Mapping[str, Any]]:
        rows = suite.admin.all_of("/admin/usage/records", org_id=suite.org_id, page_size=1000)
        return [row for row in rows if not row["stream"]]

    await wait_for(lambda: bool(records()))
    assert len(records()) == 1
    record = records()[0]
    assert record["completion_tokens"] > 10
    _billed_as_generated(ledger, sims, record["request_id"])


async def test_100_clients_that_leave_at_random_pay_for_exactly_what_was_generated(
    suite: Suite, ledger: Ledger, sims: Sims
) -> None:
    chance = random.Random(7)

    async def one(session: aiohttp.ClientSession) -> str:
        await asyncio.sleep(chance.random() * 0.5)
        return (await _leave_after(session, suite, chance.randrange(0, 6_000)))[0]

    async with _session(suite) as session:
        request_ids = await asyncio.gather(*(one(session) for _ in range(100)))
    await wait_for(lambda: sims.running() == 0, timeout_s=5.0)

    entries = await asyncio.to_thread(ledger.holding, request_ids)
    billed = {request_id: entries[request_id].tokens for request_id in request_ids}
    generated = {}
    for request_id in request_ids:
        engine = sims.request(request_id)
        generated[request_id] = (engine["prompt_tokens"], engine["generated"])
    assert billed == generated
    assert {entries[request_id].times for request_id in request_ids} == {1}
