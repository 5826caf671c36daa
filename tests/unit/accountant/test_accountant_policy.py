"""Money and time: what a request costs, and which requests can be stored."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_accountant import policy
from crosslogic_accountant.domain import Counts, Outcome
from crosslogic_accountant.policy import MonthRange, WitnessRing

tokens = st.integers(0, policy.MAX_TOKENS)
prices = st.integers(0, policy.MAX_PRICE_PICODOLLARS)


def oracle(prompt: int, completion: int, prompt_price: int, completion_price: int) -> int:
    """Schoolbook multiplication on decimal digits: shares no arithmetic with the code under test."""

    def times(left: int, right: int) -> list[int]:
        digits = [0] * 64
        for i, a in enumerate(reversed(str(left))):
            for j, b in enumerate(reversed(str(right))):
                digits[i + j] += int(a) * int(b)
        return digits

    total = [a + b for a, b in zip(times(prompt, prompt_price), times(completion, completion_price), strict=True)]
    for place in range(63):
        total[place + 1] += total[place] // 10
        total[place] %= 10
    return int("".join(map(str, reversed(total))))


@given(tokens, tokens, prices, prices, st.sampled_from([Outcome.SUCCEEDED, Outcome.CLIENT_DISCONNECTED]))
def test_what_is_charged_is_exact_to_the_picodollar(
    prompt: int, completion: int, prompt_price: int, completion_price: int, outcome: Outcome
) -> None:
    counts = Counts(prompt, 0, completion, 1)
    cost = policy.cost_picodollars(counts, outcome, prompt_price, completion_price)
    assert cost == oracle(prompt, completion, prompt_price, completion_price)


@given(tokens, tokens, prices, prices, st.sampled_from([Outcome.FAILED, Outcome.TIMED_OUT]))
def test_nobody_pays_for_a_request_that_we_failed(
    prompt: int, completion: int, prompt_price: int, completion_price: int, outcome: Outcome
) -> None:
    assert policy.cost_picodollars(Counts(prompt, 0, completion, 1), outcome, prompt_price, completion_price) == 0


def test_a_dollar_figure_from_the_price_list() -> None:
    # 1,000,000 tokens at $0.05 per million.
    assert policy.cost_picodollars(Counts(600_000, 0, 400_000, 1), 1, 50_000, 50_000) == 5 * 10**10


def test_requests_are_taken_from_35_days_back_to_one_day_ahead() -> None:
    now = 1_800_000_000_000
    day = 86_400_000
    assert policy.time_problem(now - 35 * day, now) == ""
    assert policy.time_problem(now + day, now) == ""
    assert "older" in policy.time_problem(now - 35 * day - 1, now)
    assert "ahead" in policy.time_problem(now + day + 1, now)


def test_a_nodes_count_above_what_the_request_could_use_is_no_honest_count() -> None:
    assert policy.above_honest_total(Counts(60, 0, 41, 1), 100)
    assert not policy.above_honest_total(Counts(60, 0, 40, 1), 100)
    assert not policy.above_honest_total(Counts(60, 0, 41, 1), 0)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)), st.integers(0, 4))  # noqa: DTZ001
def test_there_is_a_partition_for_every_request_that_is_taken(now: datetime, ahead: int) -> None:
    months = policy.months_to_prepare(now, ahead)
    now_ms = round(now.timestamp() * 1000)
    assert months[0].low_ms <= now_ms - policy.MAX_AGE_MS
    assert months[-1].high_ms > now_ms
    assert all(early.high_ms == late.low_ms for early, late in pairwise(months))
    if ahead:
        assert months[-1].high_ms > now_ms + policy.MAX_AHEAD_MS


def test_months_are_calendar_months_over_the_turn_of_the_year() -> None:
    months = policy.months_to_prepare(datetime(2026, 12, 31, 23, 59, tzinfo=UTC), 2)
    assert [month.name for month in months] == [
        "usage_records_2026_11",
        "usage_records_2026_12",
        "usage_records_2027_01",
        "usage_records_2027_02",
    ]
    turn = round(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000)
    assert months[2] == MonthRange(
        "usage_records_2027_01", turn, turn + round(timedelta(days=31).total_seconds() * 1e3)
    )


@given(st.floats(1e9, 3e9), st.floats(0.5, 100))
def test_every_slot_is_due_between_its_grace_time_and_its_next_filling(now_s: float, grace_s: float) -> None:
    ring = WitnessRing(grace_s=grace_s)
    slot = ring.filling(now_s)
    assert slot not in ring.due(now_s)
    assert slot not in ring.due(now_s + grace_s * 0.99)
    assert slot in ring.due(now_s + grace_s + 2.1 * ring.slot_s)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_a_witness_of_something_to_pay_for_settles(outcome: Outcome) -> None:
    pays = outcome in (Outcome.SUCCEEDED, Outcome.CLIENT_DISCONNECTED)
    assert policy.settles(outcome, Counts(1, 0, 0, 1)) == pays
    assert not policy.settles(outcome, Counts(0, 0, 0, 3))


def test_months_are_dropped_only_when_their_time_is_over() -> None:
    names = [f"usage_records_{year}_{month:02d}" for year in (2025, 2026) for month in range(1, 13)]
    now = datetime(2026, 11, 21, tzinfo=UTC)
    dropped = policy.months_to_drop([*names, "usage_records_default", "other_2020_01"], now, 13)
    assert [name for name, _ in dropped] == [f"usage_records_2025_{month:02d}" for month in range(1, 10)]
    assert dropped[-1][1] == datetime(2025, 10, 1, tzinfo=UTC)
    assert policy.months_to_drop(["usage_records_2025_12"], datetime(2026, 2, 1, tzinfo=UTC), 1) == [
        ("usage_records_2025_12", datetime(2026, 1, 1, tzinfo=UTC))
    ]
    assert policy.months_to_drop(names, now, 0) == []
