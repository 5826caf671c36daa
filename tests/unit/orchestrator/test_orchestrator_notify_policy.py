"""When a message is sent, to whom, and what follows from an attempt that failed."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslogic_orchestrator.notify.domain import Event, QuietHours, Severity
from crosslogic_orchestrator.notify.policy import KINDS, Retry, due_at, quiet_until, retry_in_s, wants
from tests.fakes.notify_route import NOW, ROUTE

ZONES = ("UTC", "Asia/Kolkata", "America/New_York", "Europe/London", "Australia/Lord_Howe", "Pacific/Apia")
EVENT = Event(key="k", kind="budget_threshold", severity=Severity.WARNING, org_id="a", at=NOW, title="t", text="t")


def quiet(start: str, end: str, zone: str = "UTC") -> QuietHours:
    return QuietHours(start=time.fromisoformat(start), end=time.fromisoformat(end), zone=ZoneInfo(zone))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_an_organisations_route_is_told_of_its_own_events_only_and_operators_of_all() -> None:
    own = replace(ROUTE, org_id="a")
    assert wants(own, EVENT)
    assert not wants(own, replace(EVENT, org_id="b"))
    assert not wants(own, replace(EVENT, org_id="")), "the operators' business"
    assert all(wants(ROUTE, replace(EVENT, org_id=org)) for org in ("a", "b", ""))


def test_what_a_route_did_not_ask_for_is_not_told() -> None:
    assert not wants(replace(ROUTE, kinds=("node_lost",)), EVENT)
    assert wants(replace(ROUTE, kinds=("node_lost", "budget_threshold")), EVENT)
    assert not wants(replace(ROUTE, min_severity=Severity.CRITICAL), EVENT)
    assert not wants(replace(ROUTE, enabled=False), EVENT)
    assert not wants(ROUTE, replace(EVENT, at=NOW - timedelta(hours=1))), "it happened before the route was made"
    assert wants(ROUTE, replace(EVENT, at=NOW - timedelta(seconds=30))), "clocks differ a little"


@pytest.mark.parametrize(
    ("hours", "moment", "due"),
    [
        (quiet("22:00", "07:00"), "2026-11-20 21:59:59", "2026-11-20 21:59:59"),
        (quiet("22:00", "07:00"), "2026-11-20 22:00:00", "2026-11-21 07:00:00"),
        (quiet("22:00", "07:00"), "2026-11-21 03:00:00", "2026-11-21 07:00:00"),
        (quiet("22:00", "07:00"), "2026-11-21 07:00:00", "2026-11-21 07:00:00"),
        (quiet("12:00", "13:00"), "2026-11-20 12:30:00", "2026-11-20 13:00:00"),
        (quiet("12:00", "13:00"), "2026-11-20 13:00:00", "2026-11-20 13:00:00"),
        # 22:00 to 07:00 in India is 16:30 to 01:30 in UTC.
        (quiet("22:00", "07:00", "Asia/Kolkata"), "2026-11-20 16:30:00", "2026-11-21 01:30:00"),
        # Clocks were put back at 06:00 UTC: 01:30 came twice in New York, and the second 01:10 is quiet still.
        (quiet("22:00", "01:30", "America/New_York"), "2026-11-01 06:10:00", "2026-11-01 06:30:00"),
        # Clocks were put forward: there was no 02:30 in New York.
        (quiet("22:00", "02:30", "America/New_York"), "2026-03-08 06:00:00", "2026-03-08 06:30:00"),
    ],
)
def test_quiet_hours_end_by_the_clocks_of_their_zone(hours: QuietHours, moment: str, due: str) -> None:
    assert quiet_until(hours, utc(moment)) == utc(due)


@settings(deadline=None, derandomize=True)
@given(
    start=st.times().map(lambda moment: moment.replace(second=0, microsecond=0)),
    end=st.times().map(lambda moment: moment.replace(second=0, microsecond=0)),
    zone=st.sampled_from(ZONES),
    asked=st.integers(0, 4 * 366 * 86_400).map(lambda seconds: utc("2026-01-01") + timedelta(seconds=seconds)),
)
def test_nothing_is_held_for_longer_than_a_day_and_an_hour_nor_sent_back_in_time(
    start: time, end: time, zone: str, asked: datetime
) -> None:
    hours = QuietHours(start=start, end=end, zone=ZoneInfo(zone))
    due = quiet_until(hours, asked)
    assert asked <= due <= asked + timedelta(hours=25)
    if due != asked:
        assert due.astimezone(hours.zone).time().replace(tzinfo=None, fold=0) >= end or start > end


def test_critical_events_wake_people_and_others_wait() -> None:
    night = replace(ROUTE, quiet=quiet("10:00", "14:00"))
    assert due_at(night, Severity.WARNING, now=NOW, last=None) == utc("2026-11-20 14:00:00")
    assert due_at(night, Severity.CRITICAL, now=NOW, last=None) == NOW


def test_the_first_of_a_flood_is_told_at_once_and_the_rest_a_minute_later() -> None:
    assert due_at(ROUTE, Severity.CRITICAL, now=NOW, last=None) == NOW
    later = NOW + timedelta(seconds=1)
    assert due_at(ROUTE, Severity.CRITICAL, now=later, last=NOW) == NOW + timedelta(seconds=60)
    assert due_at(ROUTE, Severity.CRITICAL, now=NOW + timedelta(hours=1), last=NOW) == NOW + timedelta(hours=1)


def test_a_receiver_that_is_away_for_hours_is_tried_ever_less_often_and_then_given_up() -> None:
    retry = Retry()
    waits = [retry_in_s(retry, attempt=attempt, asked_s=None, uniform=lambda: 0.5) for attempt in range(1, 16)]
    assert waits[-1] is None
    tried = [wait for wait in waits if wait is not None]
    assert len(tried) == 14
    assert all(first <= second for first, second in pairwise(tried))
    assert 4 * 3600 < sum(tried) < 8 * 3600
    assert max(tried) <= retry.cap_s


@settings(deadline=None, derandomize=True)
@given(
    attempt=st.integers(1, 14),
    asked_s=st.none() | st.floats(0, 1e9),
    drawn=st.floats(0, 1, exclude_max=True),
)
def test_a_receiver_that_asks_for_time_gets_it_and_no_more_than_an_hour(
    attempt: int, asked_s: float | None, drawn: float
) -> None:
    wait = retry_in_s(Retry(), attempt=attempt, asked_s=asked_s, uniform=lambda: drawn)
    assert wait is not None
    assert 2.5 <= wait <= 3_600
    assert wait >= min(asked_s or 0.0, 3_600)


def test_every_kind_that_may_be_asked_for_has_a_severity() -> None:
    assert {"node_lost", "launch_failed", "budget_threshold", "payment_failed", "scale_up"} <= KINDS.keys()
