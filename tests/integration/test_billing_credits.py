"""What was exported and corrected afterwards is given back once, as credit on the customer's balance."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from crosslogic_billing.rating.domain import Terms
from crosslogic_billing.reconcile.service import Reconciler
from crosslogic_billing.reconcile.store import PostgresReconciliations
from crosslogic_common.ids import Uuid7Source
from tests.fakes.billing_bench import ALWAYS, NOW, Bench, bench
from tests.fakes.stripe_server import Fault
from tests.integration.test_billing_reconciliation import Totals

CENT = 10**10
CHARGE = "crosslogic_standard_picodollars"
PRICE = 10**6
"""Of a token, pico-dollars: 10,000 of them cost a cent."""
FAULTS = ("cut", "500", "503", "saved_500", "garbage", "429")


@pytest.fixture
async def world(pg_url: str) -> AsyncIterator[Bench]:
    async with bench(pg_url) as made:
        yield made


async def settled(world: Bench, **later: float) -> None:
    world.clock.advance(**later)
    await world.close()
    await world.send()
    while await world.giver.give_due():
        pass


def balance(world: Bench, customer: str) -> int:
    """Cents; below 0: we owe the customer."""
    return int(world.stripe.objects[customer].get("balance", 0))


async def corrected(world: Bench, terms: Terms | None = None) -> tuple[str, str]:
    """A customer who was told of 100 cents too much."""
    org, customer = await world.customer(terms or Terms(free_tokens=0))
    wrong = world.ledger.use(org, NOW, prompt=1_500_000, price=PRICE)
    await settled(world, minutes=2)
    assert world.stripe.total(CHARGE, customer) == 150 * CENT
    world.ledger.correct(wrong, prompt=500_000)
    await settled(world, minutes=2)
    return org, customer


async def test_a_correction_after_export_is_credited_once_when_its_month_is_over(world: Bench) -> None:
    org, customer = await corrected(world)
    assert balance(world, customer) == 0
    await settled(world, days=12)
    assert balance(world, customer) == -100
    for _ in range(3):
        await settled(world, days=1)
    assert balance(world, customer) == -100
    assert await world.rows("SELECT cents FROM credits WHERE org_id = %s", org) == [(100,)]


async def test_usage_that_catches_up_before_the_months_end_leaves_nothing_to_credit(world: Bench) -> None:
    org, customer = await corrected(world)
    world.ledger.use(org, world.clock.now(), prompt=1_200_000, price=PRICE)
    await settled(world, minutes=2)
    await settled(world, days=12)
    assert world.stripe.total(CHARGE, customer) == 170 * CENT
    assert balance(world, customer) == 0


async def test_usage_that_comes_after_the_credit_is_charged_again_and_a_second_correction_credited_again(
    world: Bench,
) -> None:
    org, customer = await corrected(world)
    await settled(world, days=12)
    late = world.ledger.use(org, NOW + timedelta(minutes=5), prompt=300_000, price=PRICE)
    await settled(world, minutes=2)
    assert (world.stripe.total(CHARGE, customer), balance(world, customer)) == (180 * CENT, -100)
    world.ledger.correct(late, prompt=100_000)
    await settled(world, minutes=2)
    assert (world.stripe.total(CHARGE, customer), balance(world, customer)) == (180 * CENT, -120)


async def test_less_than_a_cent_is_not_credited(world: Bench) -> None:
    org, customer = await world.customer()
    wrong = world.ledger.use(org, NOW, prompt=20_000, price=PRICE)
    await settled(world, minutes=2)
    world.ledger.correct(wrong, prompt=10_001)
    await settled(world, days=12)
    assert balance(world, customer) == 0
    assert await world.rows("SELECT count(*) FROM credits WHERE org_id = %s", org) == [(0,)]


async def test_a_cap_that_was_agreed_on_too_late_is_honoured_by_a_credit(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=1_500_000, price=PRICE)
    await settled(world, minutes=2)
    terms = Terms(free_tokens=0, monthly_cap_picodollars=40 * CENT)
    assert await world.accounts.set_terms(org, ALWAYS, terms)
    await settled(world, days=12)
    assert balance(world, customer) == -110


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("commits", [True, False])
async def test_whatever_stripe_answers_a_credit_is_given_once(world: Bench, kind: str, commits: bool) -> None:
    _, customer = await corrected(world)
    world.clock.advance(days=12)
    await world.close()
    at_balances = "balance_transactions"
    world.stripe.faults.extend(
        Fault(kind, commits=commits, when=lambda method, path: method == "POST" and path.endswith(at_balances))
        for _ in range(2)
    )
    for _ in range(6):
        await settled(world, minutes=20)
    assert balance(world, customer) == -100
    assert not world.stripe.faults or commits


async def test_a_replica_that_died_in_the_call_leaves_a_credit_that_another_finds(world: Bench) -> None:
    _, customer = await corrected(world)
    world.clock.advance(days=12)
    await world.close()
    credit = await world.giver._store.begin(world.clock.now(), world.clock.now() + timedelta(minutes=2))
    assert credit is not None
    await world.sink.give(credit)
    # It dies here. Until its lease is over nobody else gives it.
    assert await world.giver.give_due() == 0
    await settled(world, minutes=3)
    assert balance(world, customer) == -100
    assert await world.rows("SELECT count(*) FROM credits WHERE given_at IS NULL") == [(0,)]


async def test_reconciliation_knows_credits_and_finds_one_that_is_missing(world: Bench) -> None:
    await corrected(world)
    reconciler = Reconciler(
        standings=world.follower,
        store=PostgresReconciliations(world.pool),
        totals=Totals(world),
        sink=world.sink,
        clock=world.clock,
        new_id=Uuid7Source().next_text,
    )
    day = NOW.date()

    async def lines() -> dict[str, tuple[int, int, str]]:
        report = await reconciler.reconcile(day, day + timedelta(days=1))
        return {f"{one.what} {one.unit}": (one.left, one.right, one.explanation) for one in report.lines}

    before = await lines()
    assert "credited a day after the month's end" in before["month = exported picodollars"][2]
    world.clock.advance(days=12)
    await world.close()
    waiting = await lines()
    assert waiting["month = exported picodollars"][:2] == (50 * CENT, 50 * CENT)
    assert waiting["credited = credits picodollars"][:2] == (100 * CENT, 100 * CENT)
    assert waiting["credits = Stripe cents"] == (100, 0, "100 cents wait to be given")
    await settled(world, minutes=2)
    given = await lines()
    assert given["credits = Stripe cents"] == (100, 100, "")
    # Somebody takes it away at Stripe.
    id_, one = next((k, v) for k, v in world.stripe.objects.items() if v["object"] == "customer_balance_transaction")
    world.stripe.objects[id_] = {**one, "metadata": {}}
    assert (await lines())["credits = Stripe cents"] == (100, 0, "")


async def test_an_organisation_in_another_zone_is_credited_by_its_own_calendar(world: Bench) -> None:
    _, customer = await corrected(world, Terms(free_tokens=0, time_zone="Pacific/Pago_Pago"))
    # December 1st there begins at 11:00 UTC.
    world.clock.time = NOW.replace(month=12, day=2, hour=10, minute=59)
    await settled(world)
    assert balance(world, customer) == 0
    world.clock.time = NOW.replace(month=12, day=2, hour=11, minute=1)
    await settled(world)
    assert balance(world, customer) == -100
