"""A lane's queue: whose turn it is, and for whom waiting is pointless. Pure: time is told, nothing is awaited.

Within a rank, start-time fair queueing (Goyal, Vin, Cheng 1996): a request starts, in virtual time, when the one before
it of the same organisation ends, and the earliest start is served first. An organisation with one request at a time is
always next; one with a thousand waits behind itself.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from crosslogic_gateway.shedding.domain import Rank

MAX_WAITING = 4_096
MAX_ORGS = 10_000
FIRST_GUESS_S = 1.0
"""How long requests are taken to last before one has ended: without a guess the first queue would have no bound."""
_SMOOTHING = 0.1


@dataclass(slots=True, eq=False)
class Waiter:
    """One request in the queue."""

    org_id: str
    rank: Rank
    cost: float
    """What it will take, in tokens; more than 0."""
    deadline: float
    """When it must have its turn, in seconds of the caller's clock."""
    order: tuple[float, int] = field(default=(0.0, 0))
    """Virtual start, then arrival."""


class _Class:
    """The waiters of one rank."""

    __slots__ = ("finish", "line", "virtual")

    def __init__(self) -> None:
        self.line: list[Waiter] = []
        self.virtual = 0.0
        self.finish: dict[str, float] = {}
        """Virtual end of each organisation's last request."""

    def place(self, waiter: Waiter, arrival: int) -> int:
        """Where it would stand."""
        waiter.order = (max(self.virtual, self.finish.get(waiter.org_id, 0.0)), arrival)
        return bisect_left(self.line, waiter.order, key=_order)

    def enter(self, waiter: Waiter, place: int) -> None:
        """It stands there from now on."""
        self.line.insert(place, waiter)
        self.finish[waiter.org_id] = waiter.order[0] + waiter.cost
        if len(self.finish) > MAX_ORGS:
            self.finish = {org: end for org, end in self.finish.items() if end > self.virtual}

    def serve(self) -> Waiter:
        """The next one."""
        waiter = self.line.pop(0)
        self.virtual = max(self.virtual, waiter.order[0])
        return waiter

    def remove(self, waiter: Waiter) -> bool:
        """Takes one out. False: it was not there."""
        place = bisect_left(self.line, waiter.order, key=_order)
        if place == len(self.line) or self.line[place] is not waiter:
            return False
        del self.line[place]
        return True

    def give_back(self, waiter: Waiter) -> None:
        """Its organisation does not pay for a turn that it did not have."""
        self.finish[waiter.org_id] = max(self.virtual, self.finish.get(waiter.org_id, 0.0) - waiter.cost)


class LaneQueue:
    """One lane at one gateway worker."""

    def __init__(self, *, max_waiting: int = MAX_WAITING) -> None:
        self.limit: int | None = None
        """Requests without reserved capacity that may be under way. None: as many as come."""
        self.in_flight = 0
        self.mean_s = 0.0
        """How long requests take, lately. 0: not known."""
        self._classes = tuple(_Class() for _ in Rank)
        self._waiting = 0
        self._arrivals = 0
        self._max_waiting = max_waiting

    def __len__(self) -> int:
        """Requests that wait."""
        return self._waiting

    @property
    def open(self) -> bool:
        """Whether a request may go on at once."""
        return self.limit is None or (self.in_flight < self.limit and not self._waiting)

    def wait_s(self, before: int) -> float:
        """When the turn of somebody comes who has `before` others before them, in seconds from now."""
        if self.limit is None:
            return 0.0
        return (before + 1) * (self.mean_s or FIRST_GUESS_S) / max(self.limit, 1)

    def enter(self, waiter: Waiter, now: float) -> list[Waiter]:
        """Puts a request into the queue; returns those who must be refused for it, perhaps itself.

        Refused are those whose turn would come after their deadline, and the last one of a queue that is full.
        """
        self._arrivals += 1
        own = self._classes[waiter.rank]
        place = own.place(waiter, self._arrivals)
        before = place + self._before(waiter.rank)
        if now + self.wait_s(before) >= waiter.deadline or before >= self._max_waiting:
            return [waiter]
        own.enter(waiter, place)
        self._waiting += 1
        refused = []
        if self._waiting > self._max_waiting:
            refused.append(self._drop_last())
        if before + 1 < self._waiting:
            refused += self.hopeless(now)
        return refused

    def leave(self, waiter: Waiter) -> bool:
        """Somebody does not wait any more. False: they did not."""
        own = self._classes[waiter.rank]
        if not own.remove(waiter):
            return False
        own.give_back(waiter)
        self._waiting -= 1
        return True

    def serve(self, waiter: Waiter) -> None:
        """Takes out one that waits and has its turn now, wherever it stands."""
        own = self._classes[waiter.rank]
        if own.remove(waiter):
            own.virtual = max(own.virtual, waiter.order[0])
            self._waiting -= 1

    def ready(self) -> list[Waiter]:
        """Those whose turn it is. They are under way from now on."""
        turns = []
        while self._waiting and (self.limit is None or self.in_flight < self.limit):
            line = next(each for each in self._classes if each.line)
            turns.append(line.serve())
            self._waiting -= 1
            self.in_flight += 1
        return turns

    def hopeless(self, now: float) -> list[Waiter]:
        """Takes those out whose deadline has passed or will have when their turn comes: the last of the line first."""
        refused = []
        before = self._waiting
        for each in reversed(self._classes):
            left = []
            for waiter in reversed(each.line):
                before -= 1
                if now >= waiter.deadline or now + self.wait_s(before) > waiter.deadline:
                    each.give_back(waiter)
                    refused.append(waiter)
                else:
                    left.append(waiter)
            if len(left) < len(each.line):
                left.reverse()
                each.line = left
        self._waiting -= len(refused)
        return refused

    def ended(self, duration_s: float) -> None:
        """A request ended after `duration_s` seconds."""
        self.in_flight -= 1
        self.took(duration_s)

    def took(self, duration_s: float) -> None:
        """A request of this lane lasted so long, one with reserved capacity perhaps."""
        self.mean_s = duration_s if not self.mean_s else self.mean_s + _SMOOTHING * (duration_s - self.mean_s)

    def waiters(self) -> Iterator[Waiter]:
        """All that wait, in their order."""
        for each in self._classes:
            yield from each.line

    def _before(self, rank: Rank) -> int:
        return sum(len(self._classes[each].line) for each in Rank if each < rank)

    def _drop_last(self) -> Waiter:
        last = next(each for each in reversed(self._classes) if each.line)
        waiter = last.line[-1]
        self.leave(waiter)
        return waiter


def _order(waiter: Waiter) -> tuple[float, int]:
    return waiter.order
