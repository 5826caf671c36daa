"""What identity says of plans and capacity is what months are charged by: late, twice, or while it is away."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from importlib.resources import files

import psycopg
import pytest

from crosslogic_billing.accounts.store import terms_of
from crosslogic_billing.rating.domain import Terms
from crosslogic_billing.rating.policy import monthly_fee
from crosslogic_billing.standings.learning import Learner
from crosslogic_billing.standings.service import PlansTerms
from crosslogic_billing.standings.store import PostgresStandings
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import migrate, open_pool
from tests.fakes.billing_bench import NOW, Bench, bench

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
MONTH = date(2026, 11, 1)
CHARGE = "crosslogic_standard_picodollars"
FEE = "crosslogic_reserved_picodollars"


@pytest.fixture
async def world(pg_url: str) -> AsyncIterator[Bench]:
    async with bench(pg_url) as opened:
        opened.identity.plan("default", LONG_AGO)
        opened.identity.plan("big", LONG_AGO, "reserved", "bill")
        yield opened


async def settled(world: Bench, minutes: int = 2) -> None:
    world.clock.advance(minutes=minutes)
    await world.close()
    await world.send()


def plans_terms(world: Bench) -> PlansTerms:
    return PlansTerms(store=PostgresStandings(world.pool), follower=world.follower, clock=world.clock)


async def test_who_is_put_on_a_reserved_plan_is_charged_by_it_from_the_next_window_on(world: Bench) -> None:
    org, customer = await world.customer()
    world.identity.org(org, LONG_AGO)
    await world.follower.read()
    world.ledger.use(org, NOW, prompt=500)
    await settled(world)
    assert world.stripe.total(CHARGE, customer) == 500 * 50_000
    world.identity.org(org, world.clock.now(), "big", {"llama-3-8b": 5})
    world.clock.advance(minutes=1)
    await world.follower.read()
    world.ledger.use(org, world.clock.now(), prompt=500)
    await settled(world)
    assert world.stripe.total(CHARGE, customer) == (500 + 200) * 50_000


async def test_a_change_that_is_heard_of_late_changes_what_was_closed_since_and_is_counted_once(world: Bench) -> None:
    org, customer = await world.customer()
    world.identity.org(org, LONG_AGO)
    await world.follower.read()
    # Identity cannot be reached from here for an hour; the organisation is put on another plan at its beginning.
    world.identity.away = True
    world.identity.org(org, NOW, "big", {"llama-3-8b": 5})
    for _ in range(3):
        with pytest.raises(CodedError):
            await world.follower.read()
        world.ledger.use(org, world.clock.now() + timedelta(minutes=1), prompt=500)
        await settled(world, minutes=20)
    assert world.stripe.total(CHARGE, customer) == 3 * 500 * 50_000
    world.identity.away = False
    assert await world.follower.read() == 1
    assert await world.follower.read() == 0
    await settled(world)
    rows = await world.rows("SELECT tokens, all_tokens FROM month_usage WHERE org_id = %s", org)
    assert rows == [(3 * 200, 3 * 500)]
    # What was exported too much is caught up with by further usage, or credited: nothing is charged twice.
    for _ in range(6):
        world.ledger.use(org, world.clock.now(), prompt=500)
        await settled(world)
    assert world.stripe.total(CHARGE, customer) == 9 * 200 * 50_000


async def test_an_organisations_first_word_counts_from_the_window_it_came_in_however_late_it_is_heard(
    world: Bench,
) -> None:
    org, _ = await world.customer()
    for at in (NOW - timedelta(minutes=5), NOW):
        world.ledger.use(org, at, prompt=500)
    await settled(world)
    world.identity.org(org, NOW + timedelta(seconds=5), "big", {"llama-3-8b": 5})
    await world.follower.read()
    assert await world.rows("SELECT tokens FROM month_usage WHERE org_id = %s", org) == [(500 + 200,)]
    # What comes late to either window goes by what its window goes by.
    for at in (NOW - timedelta(minutes=5), NOW):
        world.ledger.use(org, at, prompt=10)
    await settled(world)
    assert await world.rows("SELECT tokens FROM month_usage WHERE org_id = %s", org) == [(510 + 210,)]


async def test_two_replicas_that_read_at_once_count_a_late_change_once(world: Bench) -> None:
    org, _ = await world.customer()
    world.identity.org(org, LONG_AGO)
    await world.follower.read()
    world.ledger.use(org, NOW, prompt=500)
    await settled(world)
    world.identity.org(org, NOW - timedelta(hours=1), "big", {"llama-3-8b": 5})
    changes = await world.identity.changes(None)
    learners = [Learner(world.pool) for _ in range(3)]
    later = world.clock.now() + timedelta(seconds=1)
    assert sorted(await asyncio.gather(*(learner.learn(changes, later) for learner in learners))) == [0, 0, 1]
    assert await world.rows("SELECT tokens FROM month_usage WHERE org_id = %s", org) == [(200,)]


async def test_a_restart_while_identity_is_away_goes_on_with_what_was_known_last(world: Bench) -> None:
    org, customer = await world.customer()
    world.identity.org(org, LONG_AGO, "big", {"llama-3-8b": 5})
    await world.follower.read()
    world.identity.away = True
    world.ledger.use(org, NOW, prompt=500)
    # Closing reads the database alone: whichever process does it.
    await settled(world)
    assert world.stripe.total(CHARGE, customer) == 200 * 50_000


async def test_a_plans_mode_that_changes_changes_every_organisation_on_it(world: Bench) -> None:
    first, _ = await world.customer()
    second, _ = await world.customer()
    for org in (first, second):
        world.identity.org(org, LONG_AGO, "big", {"llama-3-8b": 5})
    await world.follower.read()
    world.identity.plan("big", NOW, "reserved", "shed")
    world.clock.advance(seconds=31)
    await world.follower.read()
    for org in (first, second):
        world.ledger.use(org, world.clock.now(), prompt=500)
    await settled(world)
    assert await world.rows("SELECT tokens, all_tokens FROM month_usage") == [(0, 500), (0, 500)]


async def test_capacity_taken_in_mid_month_is_billed_in_proportion_and_given_up_is_credited(world: Bench) -> None:
    org, customer = await world.customer(Terms(free_tokens=0, unit_fee_picodollars=30 * 10**12))
    middle = datetime(2026, 11, 16, tzinfo=UTC)
    world.identity.org(org, LONG_AGO, "big", {"llama-3-8b": 1})
    await world.follower.read()
    await settled(world)
    assert world.stripe.total(FEE, customer) == 30 * 10**12
    world.identity.org(org, middle, "big", {"llama-3-8b": 3})
    world.clock.advance(minutes=10)
    await world.follower.read()
    await settled(world)
    assert world.stripe.total(FEE, customer) == (30 + 30) * 10**12
    world.identity.org(org, datetime(2026, 11, 22, tzinfo=UTC), "big")
    world.clock.time = datetime(2026, 11, 22, 0, 1, tzinfo=UTC)
    await world.follower.read()
    world.clock.time = datetime(2026, 12, 2, 0, 1, tzinfo=UTC)
    await settled(world)
    await world.giver.give_due()
    # 15 days of one unit and 6 days of three; the other 9 days of three come back.
    assert await world.rows("SELECT sum(cents) FROM credits WHERE org_id = %s", org) == [(60_00 - (15 + 18) * 100,)]


async def test_terms_of_a_plan_are_those_of_everybody_on_it_but_of_who_has_agreed_alone(world: Bench) -> None:
    on_plan, alone = "0190a000-0000-7000-8000-000000000001", "0190a000-0000-7000-8000-000000000002"
    for org in (on_plan, alone):
        world.identity.org(org, LONG_AGO, "big", {"llama-3-8b": 2})
    await world.accounts.set_terms(alone, date(2020, 1, 1), Terms(unit_fee_picodollars=5))
    plans = plans_terms(world)
    assert (await plans.of("big", MONTH)).version == 0
    first = await plans.set("big", MONTH, Terms(unit_fee_picodollars=7, discount=Fraction(1, 3)))
    second = await plans.set("big", date(2026, 12, 1), Terms(unit_fee_picodollars=11))
    assert (first.version, first.terms.mode, second.version) == (1, "reserved", 2)

    async def fee(org: str, month: date) -> int:
        async with world.pool.connection() as connection:
            return monthly_fee(await terms_of(connection, org, month))

    assert [await fee(on_plan, date(2026, month, 1)) for month in (10, 11, 12)] == [0, 14, 22]
    assert [await fee(alone, date(2026, month, 1)) for month in (10, 11, 12)] == [10, 10, 10]


async def test_a_plan_that_identity_does_not_have_is_refused_when_its_terms_are_set(world: Bench) -> None:
    with pytest.raises(CodedError) as refused:
        await plans_terms(world).set("nobodys", MONTH, Terms())
    assert refused.value.code is ErrorCode.NOT_FOUND
    world.identity.away = True
    with pytest.raises(CodedError) as away:
        await plans_terms(world).set("big", MONTH, Terms())
    assert away.value.code is ErrorCode.UNAVAILABLE


async def test_nobody_rewrites_a_plans_terms(world: Bench) -> None:
    await plans_terms(world).set("big", MONTH, Terms())
    for statement in ("UPDATE plan_terms SET terms = '{}'", "DELETE FROM plan_terms"):
        async with world.pool.connection() as connection:
            with pytest.raises(psycopg.errors.RestrictViolation):
                await connection.execute(statement.encode())


async def test_an_upgrade_keeps_what_was_agreed_until_identity_says_otherwise(pg_url: str) -> None:
    org = "0190a000-0000-7000-8000-00000000000a"
    old = (
        '{"mode": "reserved", "collection": "invoice", "free_tokens": 1, "discount": [0, 1], "tiers": [], '
        '"monthly_cap_picodollars": null, "reserved_units": {"llama-3-8b": 4}, "unit_fee_picodollars": "10", '
        '"overage": "shed", "time_zone": "UTC"}'
    )
    await migrate(pg_url, schema="billing", migrations=files("crosslogic_billing.migrations"))
    async with open_pool(pg_url, schema="billing", max_size=2) as pool, pool.connection() as connection:
        await connection.execute("TRUNCATE account_terms, month_usage")
        for table in ("org_standings", "plan_standings", "standing_cursor", "plan_terms"):
            await connection.execute(f"DROP TABLE {table} CASCADE".encode())
        await connection.execute("DROP FUNCTION plan_terms_stay CASCADE")
        await connection.execute("INSERT INTO account_terms VALUES (%s, '2026-01-01', %s)", (org, old))
        await connection.execute("INSERT INTO account_terms VALUES (%s, '2199-01-01', %s)", (org, old))
        await connection.execute("INSERT INTO month_usage VALUES (%s, '2026-03-01', 'standard', 5, 70, 90)", (org,))
        script = files("crosslogic_billing.migrations").joinpath("0011_standings.sql").read_text(encoding="utf-8")
        await connection.execute(script.encode())
        terms = await terms_of(connection, org, date(2026, 3, 1))
        assert (terms.mode, terms.overage, dict(terms.reserved_units)) == ("reserved", "shed", {"llama-3-8b": 4})
        assert (monthly_fee(terms), terms.free_tokens) == (40, 1)
        found = await connection.execute("SELECT tokens, all_tokens FROM month_usage WHERE org_id = %s", (org,))
        assert await found.fetchall() == [(0, 90)]
        # What was agreed for a time to come is identity's to say.
        found = await connection.execute("SELECT count(*) FROM org_standings")
        assert await found.fetchall() == [(1,)]
