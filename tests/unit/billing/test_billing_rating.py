"""What a month is charged: the same for any order, never negative, never falling, and to the pico-dollar."""

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslogic_billing.rating.domain import Priced, Terms, Tier
from crosslogic_billing.rating.policy import (
    above_reserved,
    adjustment,
    billable,
    check_terms,
    exportable,
    merged,
    month_bounds,
    month_of,
    monthly_fee,
    split_prepaid,
    statement,
    window_of,
    without_free,
)
from crosslogic_common.errors import CodedError

NOVEMBER = date(2026, 11, 1)
ZONES = ("UTC", "Asia/Kolkata", "America/New_York", "Pacific/Chatham", "Australia/Lord_Howe", "Pacific/Kiritimati")
BUCKETS = st.builds(Priced, st.sampled_from(["gemma", "llama", "qwen"]), st.integers(0, 5))
RECORDS = st.lists(st.tuples(BUCKETS, st.integers(1, 30)), max_size=25)
TIERS = st.lists(st.tuples(st.integers(1, 60), st.fractions(0, 1, max_denominator=9)), max_size=3).map(
    lambda steps: tuple(
        Tier(at, share)
        for at, share in zip(
            sorted({at for at, _ in steps}), sorted((share for _, share in steps), reverse=True), strict=False
        )
    )
)
TERMS = st.builds(
    Terms,
    free_tokens=st.integers(0, 80),
    discount=st.fractions(0, 1, max_denominator=7),
    tiers=TIERS,
    monthly_cap_picodollars=st.none() | st.integers(0, 200),
)


def usage_of(records: list[tuple[Priced, int]]) -> dict[Priced, int]:
    return merged([{bucket: tokens} for bucket, tokens in records])


def by_hand(terms: Terms, records: list[tuple[Priced, int]]) -> int:
    """The charge, token by token, as a clerk would do it."""
    tokens = sorted(
        (bucket for bucket, count in records for _ in range(count)),
        key=lambda bucket: (-bucket.price_picodollars, bucket.category),
    )[terms.free_tokens :]
    total = 0
    for category in {bucket.category for bucket in tokens}:
        exact = Fraction(0)
        for place, bucket in enumerate(bucket for bucket in tokens if bucket.category == category):
            share = Fraction(1)
            for tier in terms.tiers:
                if place >= tier.from_tokens:
                    share = tier.share
            exact += bucket.price_picodollars * share
        total += round(exact * (1 - terms.discount))
    return total if terms.monthly_cap_picodollars is None else min(total, terms.monthly_cap_picodollars)


@given(TERMS, RECORDS, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_a_charge_is_the_clerks_whatever_the_order_of_records(
    terms: Terms, records: list[tuple[Priced, int]], shuffler: random.Random
) -> None:
    charged = statement(NOVEMBER, terms, usage_of(records))
    assert charged.usage_picodollars == by_hand(terms, records)
    shuffled = list(records)
    shuffler.shuffle(shuffled)
    assert statement(NOVEMBER, terms, usage_of(shuffled)) == charged


@given(TERMS, RECORDS, RECORDS, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_records_that_were_corrected_away_leave_no_trace(
    terms: Terms, kept: list[tuple[Priced, int]], wrong: list[tuple[Priced, int]], shuffler: random.Random
) -> None:
    rows = [*kept, *wrong, *((bucket, -tokens) for bucket, tokens in wrong)]
    shuffler.shuffle(rows)
    assert statement(NOVEMBER, terms, usage_of(rows)) == statement(NOVEMBER, terms, usage_of(kept))


@given(TERMS, st.lists(st.tuples(BUCKETS, st.integers(-30, 30)), max_size=25))
@settings(max_examples=50, deadline=None)
def test_no_order_of_rows_makes_a_charge_negative_or_the_books_not_balance(
    terms: Terms, rows: list[tuple[Priced, int]]
) -> None:
    charged = statement(NOVEMBER, terms, usage_of(rows))
    assert charged.usage_picodollars >= 0
    assert all(0 <= c.charge_picodollars <= c.list_picodollars for c in charged.categories)
    for postings in (adjustment(charged), split_prepaid(charged.total_picodollars, 100)):
        assert sum(line.amount_picodollars for line in postings) == 0


@given(TERMS, RECORDS, RECORDS)
@settings(max_examples=50, deadline=None)
def test_using_more_never_costs_less(
    terms: Terms, before: list[tuple[Priced, int]], more: list[tuple[Priced, int]]
) -> None:
    first = statement(NOVEMBER, terms, usage_of(before))
    second = statement(NOVEMBER, terms, usage_of([*before, *more]))
    # Each category is rounded by itself: half a pico-dollar each may go the other way.
    assert second.usage_picodollars >= first.usage_picodollars - len(second.categories)


@given(TERMS, RECORDS, st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_what_is_exported_bit_by_bit_is_what_is_charged_at_the_end(
    terms: Terms, records: list[tuple[Priced, int]], pieces: int, shuffler: random.Random
) -> None:
    exported: Counter[str] = Counter()
    rows = list(records)
    shuffler.shuffle(rows)
    for piece in range(pieces):
        so_far = rows[: len(rows) * (piece + 1) // pieces]
        charged = statement(NOVEMBER, terms, usage_of(so_far))
        target = {category.category: category.charge_picodollars for category in charged.categories}
        owed = exportable(target, exported, terms.monthly_cap_picodollars)
        assert all(amount > 0 for amount in owed.values())
        exported.update(owed)
    charged = statement(NOVEMBER, terms, usage_of(records))
    # A rounding that went up while a category was smaller is caught up with by its next pico-dollar.
    assert 0 <= sum(exported.values()) - charged.usage_picodollars <= len(charged.categories)


@pytest.mark.parametrize(("tokens", "expected"), [(24_999, 0), (25_000, 0), (25_001, 50_000), (100_000, 3_750_000_000)])
def test_the_first_25000_tokens_of_a_month_are_free_and_the_next_is_not(tokens: int, expected: int) -> None:
    charged = statement(NOVEMBER, Terms(), {Priced("llama", 50_000): tokens})
    assert charged.usage_picodollars == expected
    assert charged.categories[0].free_tokens == min(tokens, 25_000)


def test_free_tokens_are_the_dearest_ones_of_the_month() -> None:
    used = {Priced("llama", 600_000): 30_000, Priced("gemma", 30_000): 1_000}
    assert without_free(used, 25_000) == {Priced("llama", 600_000): 5_000, Priced("gemma", 30_000): 1_000}


def test_reserved_capacity_is_tracked_and_not_billed_but_for_what_goes_beyond() -> None:
    minute = {Priced("llama", 50_000): 700}
    assert above_reserved(minute, units=10, length_s=60) == {Priced("llama", 50_000): 100}
    terms = Terms(mode="reserved", reserved_units={"llama-3-8b": 10}, unit_fee_picodollars=3 * 10**12)
    assert monthly_fee(terms) == 30 * 10**12
    over = statement(NOVEMBER, terms, {Priced("llama", 50_000): 100})
    # The free tier is for serverless only.
    assert (over.usage_picodollars, over.total_picodollars) == (5_000_000, 30 * 10**12 + 5_000_000)
    window = {("llama-3-8b", Priced("llama", 50_000)): 700, ("another", Priced("llama", 50_000)): 5}
    begins = datetime(2026, 11, 21, tzinfo=UTC)
    assert billable(terms, begins, 60, window) == {Priced("llama", 50_000): 105}
    shed = Terms(mode="reserved", reserved_units={"llama-3-8b": 10}, unit_fee_picodollars=1, overage="shed")
    assert billable(shed, begins, 60, window) == {}


def test_prepaid_credit_is_spent_first_and_never_below_zero() -> None:
    assert [(line.account, line.amount_picodollars) for line in split_prepaid(100, 30)] == [
        ("prepaid", 30),
        ("receivable", 70),
        ("revenue", -100),
    ]
    assert [line.account for line in split_prepaid(100, -5)] == ["receivable", "revenue"]
    assert split_prepaid(0, 10) == []


def test_a_cap_holds_across_categories() -> None:
    used = {Priced("llama", 10): 10, Priced("qwen", 10): 10}
    charged = statement(NOVEMBER, Terms(free_tokens=0, monthly_cap_picodollars=150), used)
    assert (charged.usage_picodollars, charged.capped_picodollars) == (150, 50)
    assert exportable({"llama": 100, "qwen": 100}, {"qwen": 100}, 150) == {"llama": 50}


@given(st.sampled_from(ZONES), st.integers(1_735_689_600_000_000, 1_861_920_000_000_000))
@settings(max_examples=100, deadline=None)
def test_every_moment_is_in_the_month_of_its_zone_and_no_window_in_two(zone: str, micros: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    month = month_of(moment, zone)
    begins, ends = month_bounds(month, zone)
    assert begins <= moment < ends
    assert month_of(begins - timedelta(microseconds=1), zone) != month
    assert begins.astimezone(ZoneInfo(zone)).day == 1
    for length_s in (60, 300, 900):
        window = window_of(moment, length_s)
        assert window <= moment < window + timedelta(seconds=length_s)
        last = window + timedelta(seconds=length_s) - timedelta(microseconds=1)
        assert month_of(window, zone) == month_of(last, zone)


@pytest.mark.parametrize(
    "terms",
    [
        Terms(discount=Fraction(3, 2)),
        Terms(free_tokens=-1),
        Terms(tiers=(Tier(0, Fraction(1)),)),
        Terms(tiers=(Tier(10, Fraction(1, 2)), Tier(10, Fraction(1, 3)))),
        Terms(tiers=(Tier(10, Fraction(1, 2)), Tier(20, Fraction(2, 3)))),
        Terms(monthly_cap_picodollars=-1),
        Terms(unit_fee_picodollars=-1),
        Terms(reserved_units={"llama": -1}),
        Terms(time_zone="Mars/Olympus"),
        Terms(time_zone="../etc/passwd"),
        Terms(time_zone=""),
    ],
)
def test_terms_that_make_no_sense_are_refused(terms: Terms) -> None:
    with pytest.raises(CodedError):
        check_terms(terms)


def test_terms_as_agreed_are_taken() -> None:
    terms = Terms(tiers=(Tier(10**9, Fraction(9, 10)), Tier(10**10, Fraction(8, 10))), time_zone="Asia/Kolkata")
    assert check_terms(terms) is terms
