"""Reserved capacity on a whole suite: what its owner notices of a neighbour who sends far too much; what is billed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psycopg
import pytest

from benchmarks.reserved_capacity import Client, Seen, fleet, tenant, trial
from crosslogic_dev.suite import Suite
from tests.fakes.e2e_ledger import Ledger

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with fleet(ROOT) as running:
        yield running


async def test_reserved_capacity_is_there_while_a_neighbour_sends_twenty_times_what_the_fleet_can_do(
    suite: Suite,
) -> None:
    result = await trial(suite, seconds=4.0, times=20.0)
    assert (result.alone.refused, result.beside.refused) == (0, 0)
    assert result.slower <= 1.10
    other = result.other
    assert other.statuses[200] > 0, "what the fleet has left is for the neighbour"
    assert other.statuses[429] > other.statuses[200]
    assert set(other.statuses) == {200, 429}
    assert (other.errors, other.without_retry_after) == (0, 0)


@pytest.mark.parametrize(("overage", "statuses"), [("shed", {200, 429}), ("bill", {200})])
async def test_what_goes_beyond_reserved_capacity_is_refused_or_billed_as_the_plan_says(
    suite: Suite, overage: str, statuses: set[int]
) -> None:
    key = await asyncio.to_thread(tenant, suite, f"beyond {overage}", reserved=4, overage=overage)
    async with aiohttp.ClientSession() as session:
        client = Client(suite, key, session)
        seen = Seen()
        # 4 CU saved up for 10 s are 40 tokens: the second request, or the third, is beyond them.
        for _ in range(4):
            await client.one(seen)
    assert set(seen.statuses) == statuses
    plans = await asyncio.to_thread(_plans, suite, seen.answered_ids)
    within = plans.count(f"reserved-{overage}")
    assert within in (1, 2), "a request is let in while there is anything left"
    assert plans.count(f"reserved-{overage}/overage") == (0 if overage == "shed" else 4 - within)


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
