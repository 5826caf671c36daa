"""What load is usual at an hour of the day, from the ledger's hours. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

DAYS = 7
MOST_TOKENS = 10**13
"""Of an hour: more is no count."""
LEAST_DAYS = 3
"""With fewer nothing is foretold: one day is no pattern."""


@dataclass(frozen=True, slots=True)
class Hour:
    """What was generated in an hour."""

    start: datetime
    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Pattern:
    """The usual load of each hour of the day."""

    tokens_per_s: tuple[float, ...] = ()
    """Of the 24 hours from midnight, UTC. Empty: nothing is known."""
    tokens_per_request: float = 0.0
    """Of all hours together. 0: nothing is known."""

    def most(self, begin: datetime, *, ahead_s: float) -> float:
        """The highest from `begin` to `ahead_s` later."""
        if not self.tokens_per_s:
            return 0.0
        steps = max(1, round(ahead_s / 900))
        return max(self._at(begin + timedelta(seconds=ahead_s * n / steps)) for n in range(steps + 1))

    def _at(self, moment: datetime) -> float:
        """An hour's mean holds for its middle; between two middles the load goes straight."""
        moment = moment.astimezone(UTC)
        hours = moment.hour + moment.minute / 60 + moment.second / 3600 - 0.5
        before, part = divmod(hours, 1)
        one, other = self.tokens_per_s[int(before) % 24], self.tokens_per_s[(int(before) + 1) % 24]
        return one + (other - one) * part


def _makes_sense(hour: Hour) -> bool:
    return 0 <= hour.requests <= MOST_TOKENS and 0 <= hour.tokens <= MOST_TOKENS


def pattern_of(hours: Sequence[Hour], *, now: datetime) -> Pattern:
    """The pattern of the last `DAYS` days; the hour that runs is not counted.

    The median of the days: a burst that came once is not expected again.
    """
    begun = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    past = [hour for hour in hours if begun - timedelta(days=DAYS) <= hour.start < begun and _makes_sense(hour)]
    requests, tokens = sum(hour.requests for hour in past), sum(hour.tokens for hour in past)
    per_request = tokens / requests if requests else 0.0
    if not past or begun - min(hour.start for hour in past) < timedelta(days=LEAST_DAYS):
        return Pattern((), per_request)
    seen = {hour.start.astimezone(UTC): hour.tokens for hour in past}
    oldest = min(seen)
    usual: list[float] = []
    for hour_of_day in range(24):
        days = [begun.replace(hour=hour_of_day) - timedelta(days=day) for day in range(DAYS + 1)]
        # An hour without a row is one without a token, once anything was ever counted.
        counts = [seen.get(start, 0) for start in days if oldest <= start < begun]
        usual.append(median(counts) / 3600 if counts else 0.0)
    return Pattern(tuple(usual), per_request)
