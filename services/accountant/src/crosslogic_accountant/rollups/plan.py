"""Which sums answer a question about a time: whole days, hours at their edges, records at theirs."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
"""Before any record."""
END = datetime(3001, 1, 1, tzinfo=UTC)
"""After any record."""

Range = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Plan:
    """Ranges that do not overlap and together are the time asked for; each includes its start and excludes its end."""

    days: tuple[Range, ...] = ()
    hours: tuple[Range, ...] = ()
    records: tuple[Range, ...] = ()
    """Parts of hours."""

    @property
    def rolled(self) -> tuple[Range, ...]:
        """What is answered by rollups, and by the records that are not in them yet."""
        return self.days + self.hours


def plan(since: datetime | None, until: datetime | None, *, by_hour: bool) -> Plan:
    """The plan for a time; None does not restrict. `by_hour`: sums of days would not do."""
    low = max((since or BEGINNING).astimezone(UTC), BEGINNING)
    high = min((until or END).astimezone(UTC), END)
    if low >= high:
        return Plan()
    first_hour, end_hour = _ceil(low, _HOUR), _floor(high, _HOUR)
    if first_hour > end_hour:
        return Plan(records=((low, high),))
    records = _real((low, first_hour), (end_hour, high))
    first_day, end_day = _ceil(first_hour, _DAY), _floor(end_hour, _DAY)
    if by_hour or first_day >= end_day:
        return Plan(hours=_real((first_hour, end_hour)), records=records)
    return Plan(
        days=((first_day, end_day),), hours=_real((first_hour, first_day), (end_day, end_hour)), records=records
    )


def _real(*ranges: Range) -> tuple[Range, ...]:
    return tuple(each for each in ranges if each[0] < each[1])


def _floor(time: datetime, step: timedelta) -> datetime:
    return time - (time - BEGINNING) % step


def _ceil(time: datetime, step: timedelta) -> datetime:
    return time + (BEGINNING - time) % step
