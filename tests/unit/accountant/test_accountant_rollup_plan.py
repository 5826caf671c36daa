"""Which sums answer a question: whatever time is asked for, each moment of it is counted once."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from crosslogic_accountant.rollups.plan import BEGINNING, END, plan

_TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2026, 3, 31)).map(  # noqa: DTZ001  # made aware here
    lambda time: time.replace(tzinfo=UTC)
)
_HOURS = _TIMES.map(lambda time: time.replace(minute=0, second=0, microsecond=0))
_DAYS = _HOURS.map(lambda time: time.replace(hour=0))
_ANY = st.one_of(_TIMES, _HOURS, _DAYS)


@given(st.none() | _ANY, st.none() | _ANY, st.booleans())
def test_every_moment_asked_for_is_covered_once(since: datetime | None, until: datetime | None, by_hour: bool) -> None:
    made = plan(since, until, by_hour=by_hour)
    ranges = sorted(made.days + made.hours + made.records)
    low, high = since or BEGINNING, until or END
    if low >= high:
        assert ranges == []
        return
    assert ranges[0][0] == low
    assert ranges[-1][1] == high
    assert all(first[1] == second[0] for first, second in pairwise(ranges))
    assert all(start < end for start, end in ranges)


@given(_ANY, _ANY, st.booleans())
def test_rollups_answer_only_what_they_can(since: datetime, until: datetime, by_hour: bool) -> None:
    made = plan(since, until, by_hour=by_hour)
    assert all(edge.hour == edge.minute == edge.second == 0 for each in made.days for edge in each)
    assert all(edge.minute == edge.second == edge.microsecond == 0 for each in made.hours for edge in each)
    assert not (by_hour and made.days)
    # Records are read for less than an hour at each end: never for long.
    assert sum((end - start for start, end in made.records), timedelta()) < timedelta(hours=2)


def test_an_organisations_month_is_read_from_days() -> None:
    made = plan(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC), by_hour=False)
    assert made.days == ((datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)),)
    assert (made.hours, made.records) == ((), ())
