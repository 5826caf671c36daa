"""How long usage has waited for the ledger, found out at scrapes: records carry no time, and cost none."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

MAX_MARKS = 10_000
"""Scrapes that are remembered: at one in 15 s, 41 hours."""


class Numbered(Protocol):
    """An outbox whose records are numbered."""

    @property
    def next_id(self) -> int:
        """Number of the next record."""

    @property
    def oldest_id(self) -> int | None:
        """Number of the oldest record that waits."""


class OutboxAge:
    """The age of the oldest record, exact to the time between two scrapes."""

    def __init__(self, outbox: Numbered, now: Callable[[], float]) -> None:
        """`now` is in seconds, monotonic."""
        self._outbox = outbox
        self._now = now
        self._marks: deque[tuple[int, float]] = deque()

    def seconds(self) -> float:
        """At most how long the oldest record has waited; 0 without one, or when it is newer than the last look."""
        now, marks = self._now(), self._marks
        oldest = self._outbox.oldest_id
        while len(marks) > 1 and (oldest is None or marks[1][0] <= oldest):
            marks.popleft()
        waited_s = now - marks[0][1] if oldest is not None and marks and marks[0][0] <= oldest else 0.0
        if len(marks) < MAX_MARKS:
            marks.append((self._outbox.next_id, now))
        return waited_s
