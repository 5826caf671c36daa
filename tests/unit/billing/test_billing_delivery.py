"""How meter events are named, cut, repeated and given up."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_billing.export.domain import Delivered, Hour, MeterEvent, Rejected, Retry
from crosslogic_billing.export.policy import (
    MAX_VALUE,
    found_in,
    give_up,
    idempotency_key,
    identifier,
    identifier_of,
    must_look_first,
    outcome_of,
    parts,
    too_old,
    tries,
    tries_newest,
    wait_s,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def event(*, unknown_since: datetime | None = None, window: datetime = NOW, attempts: int = 1) -> MeterEvent:
    return MeterEvent(
        id=1,
        identifier="cl_abc",
        org_id="o",
        customer_id="c",
        event_name="m",
        category="llama",
        unit="tokens",
        month=date(2026, 11, 1),
        window_start=window,
        revision=0,
        part=0,
        value=1,
        state="pending",
        delivered_how=None,
        attempts=attempts,
        unknown_since=unknown_since,
        last_error="",
        created_at=NOW,
        last_attempt_at=None,
        delivered_at=None,
    )


def test_one_aggregate_has_one_identifier_and_no_two_share_one() -> None:
    base = {"org_id": "o", "category": "llama", "unit": "tokens", "window_start": NOW, "revision": 0, "part": 0}
    changed = [
        base,
        {**base, "org_id": "p"},
        {**base, "category": "qwen"},
        {**base, "unit": "picodollars"},
        {**base, "window_start": NOW + timedelta(minutes=1)},
        {**base, "revision": 1},
        {**base, "part": 1},
    ]
    names = [identifier(**one) for one in changed]  # type: ignore[arg-type]
    assert names == [identifier(**one) for one in changed]  # type: ignore[arg-type]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 100 for name in names)


def test_each_attempt_has_a_key_of_its_own_that_names_its_event() -> None:
    first, second = idempotency_key(event(attempts=1)), idempotency_key(event(attempts=2))
    assert first != second
    assert identifier_of(first) == identifier_of(second) == "cl_abc"


@given(st.integers(1, 10**20))
def test_parts_are_the_whole_and_fit_stripes_digits(value: int) -> None:
    value = min(value, 10**18)
    pieces = parts(value)
    assert sum(pieces) == value
    assert all(1 <= piece <= MAX_VALUE for piece in pieces)


@pytest.mark.parametrize(
    ("status", "code", "message", "expected"),
    [
        (0, "", "timed out", Retry("no answer  timed out", unknown=True)),
        (500, "", "oops", Retry("500  oops", unknown=True)),
        (503, "", "oops", Retry("503  oops", unknown=True)),
        (429, "lock_timeout", "locked", Retry("429 lock_timeout locked", unknown=False)),
        (409, "", "in use", Retry("409  in use", unknown=False)),
        (401, "", "bad key", Retry("401  bad key", unknown=False, ours=True)),
        (403, "", "no", Retry("403  no", unknown=False, ours=True)),
        (400, "duplicate_meter_event", "", Delivered("duplicate")),
        (400, "", "An event already exists with identifier cl_1.", Delivered("duplicate")),
        (400, "timestamp_in_future", "", Retry("400 timestamp_in_future", unknown=False, ours=True)),
        (400, "meter_event_invalid_value", "no", Rejected("400 meter_event_invalid_value no")),
        (404, "resource_missing", "no", Rejected("404 resource_missing no")),
    ],
)
def test_an_answer_means_what_stripe_says_it_means(status: int, code: str, message: str, expected: object) -> None:
    assert outcome_of(status, code, message) == expected


def test_retries_slow_down_to_one_in_15_minutes_and_never_stop() -> None:
    waits = [wait_s(failures, 1.0) for failures in range(1, 40)]
    assert waits == sorted(waits)
    assert waits[0] == 1.0
    assert waits[-1] == 900.0
    assert 450.0 <= wait_s(99, 0.0) < 900.0
    assert wait_s(0, 1.0) == 0.0


def test_only_what_may_be_there_for_20_hours_is_looked_up_first() -> None:
    assert not must_look_first(event(), NOW + timedelta(days=30))
    assert not must_look_first(event(unknown_since=NOW), NOW + timedelta(hours=20))
    assert must_look_first(event(unknown_since=NOW), NOW + timedelta(hours=20, seconds=1))
    assert not too_old(event(window=NOW - timedelta(days=35)), NOW)
    assert too_old(event(window=NOW - timedelta(days=35, seconds=1)), NOW)


def test_an_hours_sum_says_yes_no_or_that_somebody_else_wrote() -> None:
    assert found_in(100.0, Hour(100), 5) == (False, True)
    assert found_in(105.0, Hour(100), 5) == (True, False)
    assert found_in(104.0, Hour(100), 5) == (False, False)


def test_an_hours_sum_with_others_of_unknown_outcome_tells_only_what_it_can() -> None:
    assert found_in(107.0, Hour(100, (7, 30)), 5) == (False, True)
    assert found_in(112.0, Hour(100, (7, 30)), 5) == (True, False)
    assert found_in(105.0, Hour(100, (5,)), 5) == (True, True)
    assert found_in(100.0, Hour(100, (5, 5, 5)), 5) == (False, True)
    # Too many to tell them apart: it waits.
    assert found_in(0.0, Hour(0, tuple(2**power for power in range(20))), 3) == (True, True)


def test_a_lane_tries_those_behind_its_first_event_only_when_that_has_failed_for_long() -> None:
    assert [tries(failures) for failures in (0, 1, 2, 3, 4, 9, 500)] == [1, 1, 1, 2, 3, 8, 8]


def test_the_last_try_of_a_lane_that_has_failed_for_long_is_its_newest_event() -> None:
    for failures, last in ((3, 1), (4, 2), (9, 7), (500, 7)):
        assert [tries_newest(failures, stuck) for stuck in range(last + 1)] == [False] * last + [True]
    assert not any(tries_newest(failures, 0) for failures in range(10))


def test_what_still_fails_after_30_days_is_left_to_an_operator_while_stripe_would_take_it() -> None:
    assert not give_up(event(window=NOW - timedelta(days=30)), NOW)
    assert give_up(event(window=NOW - timedelta(days=30, seconds=1)), NOW)
