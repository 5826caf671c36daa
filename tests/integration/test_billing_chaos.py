"""Billing killed wherever it stands, prices that change and months that end in between: not a pico-dollar differs."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_billing.rating.domain import Terms
from crosslogic_gateway.domain import Model
from crosslogic_gateway.prices import Prices
from tests.fakes.billing_bench import Bench, bench
from tests.fakes.stripe_server import Fault

TOKENS = "crosslogic_standard_tokens"
CHARGE = "crosslogic_standard_picodollars"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
async def world(pg_url: str) -> AsyncIterator[Bench]:
    async with bench(pg_url) as made:
        yield made


async def _work(world: Bench) -> None:
    """All that billing does, once."""
    sender = world.sender_like()
    await world.settler.settle_all()
    await world.closer.close_due()
    await sender.send_due()


async def _is_behind(world: Bench) -> bool:
    (cursor,) = await world.rows("SELECT sequence FROM ledger_cursor WHERE name = 'usage'")
    open_windows = await world.rows("SELECT FROM window_usage WHERE tokens <> accounted LIMIT 1")
    return cursor[0] != len(world.ledger.rows) or bool(open_windows)


# Experiment 13: killed at any await. A cancelled task stops where it stands, as a killed one does: its transaction is
# rolled back by the server, its lease stays, and nobody knows what became of its call.


@pytest.mark.parametrize("seed", range(2))
async def test_billing_killed_wherever_it_stands_loses_nothing_and_doubles_nothing(world: Bench, seed: int) -> None:
    dice = random.Random(seed)
    orgs = [await world.customer(terms) for terms in (Terms(free_tokens=0), Terms(free_tokens=0))]
    for _ in range(25):
        for org, _ in orgs:
            at = world.clock.now() - timedelta(minutes=dice.randrange(60))
            row = world.ledger.use(org, at, prompt=dice.randrange(1, 500), completion=dice.randrange(100))
            if dice.random() < 0.2:
                world.ledger.correct(row, prompt=row.prompt_tokens, completion=row.completion_tokens + 5)
        if dice.random() < 0.3:
            world.stripe.faults.append(Fault(dice.choice(["cut", "500", "429"]), commits=dice.random() < 0.5))
        # Past the lease of whoever was killed before.
        world.clock.advance(minutes=3)
        working = asyncio.create_task(_work(world))
        await asyncio.sleep(dice.random() * 0.03)
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
    world.stripe.faults.clear()
    for _ in range(40):
        world.clock.advance(minutes=20)
        await _work(world)
        if set(await world.states()) == {"delivered"} and not await _is_behind(world):
            break
    for org, customer in orgs:
        tokens, cost = world.ledger.tokens(org), world.ledger.cost(org)
        assert await world.outbox_total(org, "tokens") == world.stripe.total(TOKENS, customer) == tokens
        assert await world.outbox_total(org, "picodollars") == world.stripe.total(CHARGE, customer) == cost
    assert set(await world.states()) == {"delivered"}


# Experiment 16.


def _version(id_: str, price: int, begins: datetime, ends: datetime | None) -> pb.PriceVersion:
    made = pb.PriceVersion(
        id=id_,
        model="llama",
        market="usa",
        prices=pb.TokenPrices(prompt_picodollars=price, cached_prompt_picodollars=price, completion_picodollars=price),
    )
    made.effective_from.FromDatetime(begins)
    if ends is not None:
        made.effective_to.FromDatetime(ends)
    return made


@pytest.mark.parametrize("skew_minutes", [-5, 0, 5])
async def test_a_price_change_and_a_month_end_split_requests_by_their_admission_however_late_they_come(
    world: Bench, skew_minutes: int
) -> None:
    """Midnight of the month's end, there, and a new price from the same moment; our own clock may be wrong."""
    dice = random.Random(skew_minutes)
    midnight = datetime(2026, 11, 30, 18, 30, tzinfo=UTC)
    prices = Prices()
    prices.replace(
        [_version("old", 1_000, NOON, midnight), _version("new", 3_000, midnight, None)],
        [pb.Market(name="usa", region_prefixes=[""])],
    )
    model = Model("llama", "llama", 8192, 0, 0, frozenset(), 0)
    org, customer = await world.customer(Terms(free_tokens=50, time_zone="Asia/Kolkata"))
    moments = [midnight + timedelta(microseconds=offset) for offset in (-60_000_000, -1, 0, 1, 60_000_000)]
    for moment in moments:
        # The price of its admission, also for a stream that ends after midnight.
        rate = prices.rate(model=model, region="us", plan="", api="", now_us=round(moment.timestamp() * 1e6))
        world.ledger.use(org, moment, prompt=100, price=rate.prompt, version=rate.version)
    assert [row.price_version for row in world.ledger.rows] == ["old", "old", "new", "new", "new"]
    late = list(world.ledger.rows)
    dice.shuffle(late)
    world.ledger.rows.clear()
    world.clock.time = midnight + timedelta(minutes=10 + skew_minutes)
    for row in late:
        world.ledger.use(
            org, row.start_time, prompt=row.prompt_tokens, price=row.prompt_price, version=row.price_version
        )
        world.clock.advance(days=3)
        await world.close()
        await world.send()
    months = await world.rows(
        "SELECT month::text, value::bigint FROM month_exports WHERE org_id = %s AND unit = 'picodollars' ORDER BY 1",
        org,
    )
    assert months == [("2026-11-01", (200 - 50) * 1_000), ("2026-12-01", (300 - 50) * 3_000)]
    assert world.stripe.total(CHARGE, customer) == 150_000 + 750_000
    assert world.stripe.total(TOKENS, customer) == 500
