"""From the ledger to Stripe: every token and every pico-dollar once, whatever fails on the way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from crosslogic_billing.export.policy import MAX_VALUE
from crosslogic_billing.export.sender import Sender
from crosslogic_billing.export.stripe_sink import StripeSink, Tax, stripe_client
from crosslogic_billing.rating.domain import Terms
from crosslogic_common.settings import Secret
from tests.fakes.billing_bench import ALWAYS, NOW, Bench, bench
from tests.fakes.stripe_server import DAY_S, KEY, Answer, Fault, failure

TOKENS = "crosslogic_standard_tokens"
CHARGE = "crosslogic_standard_picodollars"


@pytest.fixture
async def world(pg_url: str) -> AsyncIterator[Bench]:
    async with bench(pg_url) as made:
        yield made


async def settled(world: Bench, *, minutes: int = 2) -> None:
    world.clock.advance(minutes=minutes)
    await world.close()
    await world.send()


async def agreed(world: Bench, org: str, customer: str) -> None:
    """Ledger, outbox and Stripe say the same, to the token and the pico-dollar."""
    tokens, cost = world.ledger.tokens(org), world.ledger.cost(org)
    assert await world.outbox_total(org, "tokens") == world.stripe.total(TOKENS, customer) == tokens
    assert await world.outbox_total(org, "picodollars") == world.stripe.total(CHARGE, customer) == cost


async def test_a_minute_of_many_requests_is_one_event_a_meter(world: Bench) -> None:
    org, customer = await world.customer()
    for _ in range(10):
        world.ledger.use(org, NOW, prompt=100, completion=20, cached=30)
    await settled(world)
    await agreed(world, org, customer)
    assert len(world.stripe.events) == 2
    assert {event.timestamp for event in world.stripe.events} == {int(NOW.replace(second=0).timestamp())}


async def test_a_window_that_is_not_over_is_not_told(world: Bench) -> None:
    org, _ = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    await world.close()
    assert await world.outbox_total(org, "tokens") == 0


async def test_late_records_are_told_by_themselves_and_nothing_twice(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    await settled(world)
    world.ledger.use(org, NOW, prompt=11)
    world.ledger.use(org, NOW - timedelta(days=3), prompt=7)
    await settled(world)
    await settled(world)
    await agreed(world, org, customer)
    assert sorted(event.value for event in world.stripe.events if event.event_name == TOKENS) == [7, 11, 100]


async def test_a_correction_before_export_is_netted_and_one_after_it_waits_for_further_usage(world: Bench) -> None:
    org, customer = await world.customer()
    wrong = world.ledger.use(org, NOW, prompt=1_000)
    world.ledger.correct(wrong, prompt=100)
    await settled(world)
    await agreed(world, org, customer)
    late = world.ledger.use(org, world.clock.now(), prompt=500)
    await settled(world)
    world.ledger.correct(late, prompt=200)
    await settled(world)
    assert world.stripe.total(TOKENS, customer) == 600
    world.ledger.use(org, world.clock.now(), prompt=1_000)
    await settled(world)
    await agreed(world, org, customer)


async def test_free_tokens_are_not_charged_and_are_counted(world: Bench) -> None:
    org, customer = await world.customer(Terms())
    for _ in range(4):
        world.ledger.use(org, world.clock.now(), prompt=10_000)
        await settled(world)
    assert world.stripe.total(TOKENS, customer) == 40_000
    assert world.stripe.total(CHARGE, customer) == 15_000 * 50_000


async def test_each_month_has_its_free_tokens_where_the_organisation_is(world: Bench) -> None:
    org, customer = await world.customer(Terms(free_tokens=100, time_zone="Asia/Kolkata"))
    december_there = datetime(2026, 11, 30, 18, 30, tzinfo=UTC)
    world.clock.time = december_there + timedelta(minutes=1)
    world.ledger.use(org, december_there - timedelta(seconds=1), prompt=150)
    world.ledger.use(org, december_there, prompt=150)
    await settled(world)
    assert world.stripe.total(CHARGE, customer) == 2 * 50 * 50_000
    months = await world.rows("SELECT month FROM org_months WHERE org_id = %s ORDER BY month", org)
    assert months == [(date(2026, 11, 1),), (date(2026, 12, 1),)]


async def test_reserved_capacity_is_counted_and_only_what_goes_beyond_is_charged(world: Bench) -> None:
    org, customer = await world.customer(Terms(mode="reserved", reserved_units={"llama-3-8b": 2}))
    world.ledger.use(org, NOW, prompt=100)
    await settled(world)
    assert (world.stripe.total(TOKENS, customer), world.stripe.total(CHARGE, customer)) == (100, 0)
    world.ledger.use(org, NOW, prompt=50)
    world.ledger.use(org, NOW, prompt=10, model="another")
    await settled(world)
    assert world.stripe.total(TOKENS, customer) == 160
    assert world.stripe.total(CHARGE, customer) == (30 + 10) * 50_000


async def test_a_cap_and_a_discount_hold_at_stripe_as_well(world: Bench) -> None:
    terms = Terms(free_tokens=0, discount=Fraction(1, 3), monthly_cap_picodollars=7_000_000)
    org, customer = await world.customer(terms)
    for expected in (3_333_333, 6_666_667, 7_000_000, 7_000_000):
        world.ledger.use(org, world.clock.now(), prompt=100)
        await settled(world)
        assert world.stripe.total(CHARGE, customer) == expected


async def test_prepaid_usage_is_not_collected_a_second_time(world: Bench) -> None:
    org, customer = await world.customer(Terms(free_tokens=0, collection="prepaid"))
    world.ledger.use(org, NOW, prompt=100)
    await settled(world)
    assert (world.stripe.total(TOKENS, customer), world.stripe.total(CHARGE, customer)) == (100, 0)


async def test_a_value_of_more_than_15_digits_is_told_in_parts(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=2_500_000, price=10**9)
    await settled(world)
    await agreed(world, org, customer)
    told = [event.value for event in world.stripe.events if event.event_name == CHARGE]
    assert sorted(told) == [5 * 10**14 + 2, MAX_VALUE, MAX_VALUE]


async def test_what_was_used_before_there_was_a_customer_is_told_once_there_is(world: Bench) -> None:
    org, customer = await world.customer()
    await world.accounts.unlink(org)
    world.ledger.use(org, NOW, prompt=100)
    await settled(world)
    assert world.stripe.events == []
    await world.accounts.link(org, customer_id=customer)
    await settled(world)
    await agreed(world, org, customer)


async def test_without_a_key_months_are_rated_and_nothing_waits_to_be_sent(pg_url: str) -> None:
    async with bench(pg_url, exporting=False) as world:
        org, _ = await world.customer()
        world.ledger.use(org, NOW, prompt=100)
        await settled(world)
        assert await world.rows("SELECT tokens FROM month_usage WHERE org_id = %s", org) == [(100,)]
        assert await world.states() == {}
        assert world.stripe.sent() == 0


async def test_two_replicas_settle_close_and_send_at_once_and_count_once(world: Bench) -> None:
    orgs = [await world.customer() for _ in range(3)]
    for org, _ in orgs:
        for _ in range(20):
            world.ledger.use(org, NOW, prompt=10)
    world.clock.advance(minutes=2)
    world.stripe.call_time_s = 0.02
    other = world.sender_like()

    async def replica(sender: object) -> None:
        await world.settler.settle_all()
        await world.closer.close_due()
        while await sender.send_due():  # type: ignore[attr-defined]
            pass

    await asyncio.gather(replica(world.sender), replica(other))
    await world.send()
    for org, customer in orgs:
        await agreed(world, org, customer)
    assert world.stripe.overlaps == 0


async def test_the_ledger_may_be_away_and_come_back(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    world.ledger.away = True
    running = asyncio.create_task(world.settler.run())
    await asyncio.sleep(0.05)
    world.ledger.away = False
    try:
        async with asyncio.timeout(20):
            while (await world.rows("SELECT sequence FROM ledger_cursor WHERE name = 'usage'"))[0][0] == 0:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
    await settled(world)
    await agreed(world, org, customer)


async def test_a_gap_in_the_ledger_stops_settling_rather_than_losing_a_row(world: Bench) -> None:
    org, _ = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    gap = world.ledger.use(org, NOW, prompt=100)
    world.ledger.rows[1] = replace(gap, sequence=3)
    with pytest.raises(Exception, match="came where 2 was due"):
        await world.settler.settle_all()
    assert await world.rows("SELECT sequence FROM ledger_cursor WHERE name = 'usage'") == [(0,)]


# Experiment 10.


async def test_stripe_is_down_for_48_hours_and_no_total_differs_afterwards(world: Bench) -> None:
    org, customer = await world.customer()
    world.stripe.down = True
    for _ in range(48):
        world.ledger.use(org, world.clock.now(), prompt=100, completion=10)
        await settled(world, minutes=60)
    assert world.stripe.events == []
    # Backed off to an attempt every 15 minutes a meter, not a storm.
    assert world.stripe.sent() + len(world.stripe.calls) < 4 * 48 * 4
    world.stripe.down = False
    await settled(world, minutes=20)
    await settled(world, minutes=20)
    await agreed(world, org, customer)
    assert await world.states() == {"delivered": 96}


# Experiment 11.


@pytest.mark.parametrize("kind", ["cut", "500", "garbage"])
async def test_stripe_commits_and_the_answer_is_lost_and_it_counts_once(world: Bench, kind: str) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    world.stripe.faults.append(Fault(kind, commits=True))
    await settled(world)
    await settled(world)
    await agreed(world, org, customer)
    how = await world.rows("SELECT delivered_how FROM meter_events ORDER BY delivered_how")
    assert how == [("accepted",), ("duplicate",)]


@pytest.mark.parametrize("kind", ["cut", "500", "503", "429", "lock", "garbage", "saved_500"])
async def test_nothing_that_stripe_answers_sticks_in_the_queue(world: Bench, kind: str) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    world.stripe.faults.extend(Fault(kind) for _ in range(3))
    for _ in range(4):
        await settled(world)
    await agreed(world, org, customer)
    assert await world.states() == {"delivered": 2}


async def delivered_in_the_end(world: Bench) -> None:
    """On a busy machine other calls may be given up as well: it is tried until nothing waits."""
    for _ in range(40):
        await settled(world, minutes=20)
        if set(await world.states()) == {"delivered"}:
            return


@contextlib.asynccontextmanager
async def impatient(world: Bench) -> AsyncIterator[Sender]:
    """Another replica, which gives calls up after half a second."""
    async with stripe_client(Secret(KEY), base_address=world.stripe.base, timeout_s=0.5) as client:
        yield world.sender_like(sink=StripeSink(client, tax=Tax()))


async def test_a_call_that_hangs_is_given_up_and_repeated(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    world.clock.advance(minutes=2)
    await world.close()
    world.stripe.faults.append(Fault("hang", commits=True))
    async with impatient(world) as sender:
        async with asyncio.timeout(60):
            while world.stripe.faults:
                await sender.send_due()
                world.clock.advance(minutes=20)
    await delivered_in_the_end(world)
    await agreed(world, org, customer)


async def test_a_replica_that_hangs_past_its_lease_is_overtaken_and_nothing_counts_twice(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    world.clock.advance(minutes=2)
    await world.close()
    world.stripe.faults.append(Fault("hang", commits=True))
    async with impatient(world) as sender:
        hanging = asyncio.create_task(sender.send_due())
        async with asyncio.timeout(60):
            while world.stripe.faults and not hanging.done():
                await asyncio.sleep(0.01)
        world.clock.advance(minutes=3)
        await world.send()
        await hanging
    world.stripe.faults.clear()
    await delivered_in_the_end(world)
    await agreed(world, org, customer)


async def test_an_outcome_that_is_unknown_for_a_day_is_looked_up_and_not_sent_blindly(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    world.stripe.faults.append(Fault("cut", commits=True, when=lambda _, path: path.endswith("meter_events")))
    world.stripe.faults.append(Fault("cut", commits=True, when=lambda _, path: path.endswith("meter_events")))
    await settled(world)
    world.stripe.down = True
    await settled(world, minutes=60)
    world.stripe.down = False
    world.clock.advance(hours=25)
    # Stripe has forgotten the identifiers: sent again, they would count again.
    assert world.stripe.identifier_memory_s == DAY_S
    sent = world.stripe.sent()
    await settled(world)
    await agreed(world, org, customer)
    assert world.stripe.sent() == sent
    assert await world.rows("SELECT DISTINCT delivered_how FROM meter_events") == [("in_summary",)]


async def test_what_stripe_never_got_is_sent_after_looking(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    world.stripe.faults.extend(Fault("cut") for _ in range(2))
    await settled(world)
    world.clock.advance(hours=25)
    await settled(world)
    await agreed(world, org, customer)


async def test_a_sum_that_fits_neither_way_waits_for_an_operator(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    world.stripe.faults.extend(Fault("cut", commits=True) for _ in range(2))
    await settled(world)
    # Somebody else has told Stripe something for the same hour.
    world.stripe.events.append(replace(world.stripe.events[0], identifier="by hand", event_name=TOKENS, value=1))
    world.clock.advance(hours=25)
    await settled(world)
    dead = await world.outbox.listed("dead", "", 0, 10)
    assert [event.event_name for event in dead] == [TOKENS]
    assert "neither 0 nor 100" in dead[0].last_error
    assert world.stripe.total(TOKENS, customer) == 101


async def test_an_event_that_stripe_will_never_take_does_not_hold_up_the_others(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    world.stripe.down = True
    await settled(world)
    world.clock.advance(days=36)
    world.ledger.use(org, world.clock.now(), prompt=11)
    world.stripe.down = False
    await settled(world, minutes=20)
    assert world.stripe.total(TOKENS, customer) == 11
    dead = await world.outbox.listed("dead", org, 0, 10)
    assert {event.value for event in dead} == {100, 100 * 50_000}
    assert all("35 days" in event.last_error for event in dead)
    # An operator bills it by hand, or has it tried again.
    assert (await world.outbox.resolve(dead[0].id, world.clock.now())) is not None
    assert (await world.outbox.replay(dead[1].id, world.clock.now())) is not None
    await world.send()
    assert await world.states() == {"dead": 1, "delivered": 3}


def _fails_for_ever(identifier: str, world: Bench) -> None:
    """Stripe answers one event, and no other, with 500."""
    take = world.stripe._take

    def taken(params: dict[str, Any], customer: str, key: str) -> Answer:
        if params["identifier"] == identifier:
            return failure(500, "this one breaks us", kind="api_error")
        return take(params, customer, key)

    world.stripe._take = taken  # type: ignore[method-assign]


async def _first_of(world: Bench, name: str) -> str:
    found = await world.rows("SELECT identifier FROM meter_events WHERE event_name = %s ORDER BY id LIMIT 1", name)
    return str(found[0][0])


async def test_an_event_that_breaks_stripe_for_ever_is_passed_by_the_others_of_its_lane(world: Bench) -> None:
    org, customer = await world.customer()
    for minute in range(4):
        world.ledger.use(org, NOW + timedelta(minutes=minute), prompt=100 + minute)
    world.clock.advance(minutes=6)
    await world.close()
    _fails_for_ever(await _first_of(world, TOKENS), world)
    for _ in range(6):
        await settled(world, minutes=1)
    assert world.stripe.total(TOKENS, customer) == 101 + 102 + 103
    assert world.stripe.total(CHARGE, customer) == 406 * 50_000
    assert await world.states() == {"pending": 1, "delivered": 7}
    # It is tried again, ever more seldom, and holds up nothing that comes after it.
    world.ledger.use(org, world.clock.now(), prompt=11)
    sent = world.stripe.sent()
    for _ in range(24):
        await settled(world, minutes=60)
    assert world.stripe.total(TOKENS, customer) == 101 + 102 + 103 + 11
    assert world.stripe.sent() - sent < 2 + 24 * 2


async def test_a_row_of_events_that_break_stripe_holds_up_nothing_behind_it_however_long_it_is(world: Bench) -> None:
    org, customer = await world.customer()
    rows, good = 12, 3
    for minute in range(rows + good):
        world.ledger.use(org, NOW + timedelta(minutes=minute), prompt=100)
    world.clock.advance(minutes=rows + good + 2)
    await world.close()
    poison = [
        row[0]
        for row in await world.rows("SELECT identifier FROM meter_events WHERE event_name = %s ORDER BY id", TOKENS)
    ][:rows]
    for identifier in poison:
        _fails_for_ever(identifier, world)
    # Found out within two minutes; then what came after the row is told at once.
    for _ in range(12):
        world.clock.advance(seconds=10)
        await world.send()
    assert world.stripe.total(TOKENS, customer) == good * 100
    # What is used from now on waits for a quarter of an hour at most, though no event of the row ever goes through.
    for used in range(1, 4):
        world.ledger.use(org, world.clock.now(), prompt=11)
        for _ in range(6):
            await settled(world, minutes=3)
        assert world.stripe.total(TOKENS, customer) == good * 100 + used * 11
    waiting = await world.rows("SELECT count(*) FROM meter_events WHERE state = 'pending' AND due_at IS NOT NULL")
    assert waiting == [(rows,)]
    # Each of them is tried by itself from now on, ever more seldom.
    sent = world.stripe.sent()
    for _ in range(4):
        await settled(world, minutes=60)
    assert world.stripe.sent() - sent <= 4 * rows


async def test_an_event_that_fails_for_a_month_is_a_dead_letter_while_stripe_would_still_take_it(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    world.clock.advance(minutes=2)
    await world.close()
    first = await _first_of(world, TOKENS)
    take = world.stripe._take
    _fails_for_ever(first, world)
    for _ in range(31):
        await settled(world, minutes=24 * 60)
    dead = await world.outbox.listed("dead", org, 0, 10)
    assert [event.identifier for event in dead] == [first]
    assert "30 days" in dead[0].last_error
    # Stripe is mended: an operator has it sent again, in time.
    world.stripe._take = take  # type: ignore[method-assign]
    assert await world.outbox.replay(dead[0].id, world.clock.now()) is not None
    await world.send()
    await agreed(world, org, customer)


async def test_two_events_of_one_hour_whose_outcome_is_unknown_for_a_day_count_once_each(world: Bench) -> None:
    org, customer = await world.customer()
    for minute in range(3):
        world.ledger.use(org, NOW + timedelta(minutes=minute), prompt=100 + minute)
    world.clock.advance(minutes=5)
    await world.close()
    # Stripe has the first and the second of the tokens, and says so of neither.
    lost = [
        row[0]
        for row in await world.rows("SELECT identifier FROM meter_events WHERE event_name = %s ORDER BY id", TOKENS)
    ][:2]
    take = world.stripe._take

    def taken(params: dict[str, Any], customer: str, key: str) -> Answer:
        answer = take(params, customer, key)
        return failure(500, "lost", kind="api_error") if params["identifier"] in lost else answer

    world.stripe._take = taken  # type: ignore[method-assign]
    for _ in range(6):
        await settled(world, minutes=1)
    assert await world.states() == {"pending": 2, "delivered": 4}
    world.stripe._take = take  # type: ignore[method-assign]
    world.clock.advance(hours=25)
    await settled(world)
    await agreed(world, org, customer)
    assert await world.states() == {"delivered": 6}


async def test_a_wrong_key_blames_no_event(world: Bench) -> None:
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    world.clock.advance(minutes=2)
    await world.close()
    async with stripe_client(Secret("sk_wrong"), base_address=world.stripe.base, timeout_s=2) as client:
        await world.sender_like(sink=StripeSink(client, tax=Tax())).send_due()
    assert await world.states() == {"pending": 2}
    await settled(world)
    await agreed(world, org, customer)


async def test_terms_cannot_move_a_month_that_has_begun(world: Bench) -> None:
    org, _ = await world.customer()
    assert not await world.accounts.set_terms(org, date(2026, 12, 1), Terms(time_zone="Asia/Kolkata"))
    assert await world.accounts.set_terms(org, date(2026, 12, 1), Terms(free_tokens=5))
    assert (await world.accounts.terms(org, date(2026, 11, 1))).free_tokens == 0
    assert (await world.accounts.terms(org, date(2027, 1, 1))).free_tokens == 5
    assert await world.accounts.terms(org, ALWAYS) == Terms(free_tokens=0)
