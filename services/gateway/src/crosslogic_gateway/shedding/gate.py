"""The gate before the nodes: counts what is under way in each lane, lets the rest wait its turn, or refuses it."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from crosslogic_gateway.shedding.domain import Rank, overloaded
from crosslogic_gateway.shedding.lag import LOOK_S, LoopLag
from crosslogic_gateway.shedding.queue import LaneQueue, Waiter

MAX_LANES = 4_096
IDLE_S = 600.0
"""How long a lane without requests is remembered, and what its organisations have reserved there."""
_RATE_S = 2.0


class LaneKey(NamedTuple):
    """A lane, as the scheduler knows it."""

    model: str
    region: str
    org_id: str = ""
    """Whose own nodes they are. Empty: the shared ones."""


@dataclass(slots=True, eq=False)
class Lane:
    """One lane at this worker."""

    key: LaneKey
    queue: LaneQueue = field(default_factory=LaneQueue)
    reserved_in_flight: int = 0
    reservations: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Capacity units, and when they were last used, by organisation."""
    dedicated: frozenset[str] = frozenset()
    """Organisations with nodes of their own here."""
    answered: bool = False
    """The scheduler has said what it knows of it."""
    turns: dict[Waiter, asyncio.Future[None]] = field(default_factory=dict)
    used_at: float = 0.0
    ended: int = 0
    """Serverless requests that ended since the rate was last taken."""
    ended_per_s: float = 0.0
    rated_at: float = 0.0

    @property
    def idle(self) -> bool:
        """Nothing is under way or waits."""
        return not (self.queue.in_flight or self.reserved_in_flight or self.turns)


@dataclass(slots=True, eq=False)
class Pass:
    """One request under way. Give it back with `Gate.leave`, once."""

    lane: Lane
    reserved: bool
    at: float


class Asked(NamedTuple):
    """A request at the gate. A tuple: each request makes one."""

    model: str
    region: str
    org_id: str
    rank: Rank
    cost: float
    """Tokens that it will take, an estimate."""
    timeout_s: float
    reserved_units: int = 0
    """Capacity units within which it runs. 0: it has none, or is beyond them."""


class Gate:
    """All lanes of one worker."""

    def __init__(self, *, lag: LoopLag, now: Callable[[], float], changed: Callable[[], None] = lambda: None) -> None:
        """`now` is the event loop's clock; `changed` is called when the use of a lane has changed."""
        self._lag = lag
        self.now = now
        self._lanes: OrderedDict[LaneKey, Lane] = OrderedDict()
        self.changed = changed
        self.refused = dict.fromkeys(Rank, 0)
        """Requests that were refused, by rank."""
        self.queued = 0
        """Requests that had to wait."""

    @property
    def lanes(self) -> Iterator[Lane]:
        """Every lane that is remembered."""
        return iter(self._lanes.values())

    @property
    def waiting(self) -> int:
        """Requests that wait, in all lanes."""
        return sum(len(lane.queue) for lane in self._lanes.values())

    @property
    def hurried(self) -> bool:
        """Whether somebody waits, or a lane is new: the scheduler should hear of it at once."""
        return any(lane.turns or not lane.answered for lane in self._lanes.values())

    def lane(self, key: LaneKey) -> Lane | None:
        """A lane that is in use."""
        return self._lanes.get(key)

    def try_enter(self, asked: Asked) -> Pass | None:
        """Lets a request through if there is room for it. None: it must wait, by `enter`. Raises OVERLOADED.

        This is all that a request costs while there is room.
        """
        lane = self._lane_of(asked)
        now = self.now()
        lane.used_at = now
        if asked.reserved_units:
            lane.reservations[asked.org_id] = (asked.reserved_units, now)
            lane.reserved_in_flight += 1
            self.changed()
            return Pass(lane, True, now)
        if self._lag.lag_s and self._lag.refuses(asked.rank):
            self.refused[asked.rank] += 1
            raise overloaded(1.0, f"the event loop is {self._lag.lag_s:.2f} s late")
        if not lane.queue.open:
            return None
        lane.queue.in_flight += 1
        self.changed()
        return Pass(lane, False, now)

    async def enter(self, asked: Asked) -> Pass:
        """Waits for the request's turn. Raises OVERLOADED when it would come too late, or did."""
        lane = self._lane_of(asked)
        now = self.now()
        waiter = Waiter(asked.org_id, asked.rank, max(asked.cost, 1.0), now + asked.timeout_s)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.turns[waiter] = turn
        self.queued += 1
        self._refuse(lane, lane.queue.enter(waiter, now))
        self._serve(lane)
        try:
            await turn
        except BaseException:
            if lane.turns.pop(waiter, None) is not None:
                lane.queue.leave(waiter)
            elif not turn.cancelled() and turn.exception() is None:
                # Its turn came in the moment in which its client left.
                self._free(lane)
            self.changed()
            raise
        return Pass(lane, False, self.now())

    def leave(self, passed: Pass) -> None:
        """A request ended, however it did."""
        lane = passed.lane
        if passed.reserved:
            lane.reserved_in_flight -= 1
            lane.queue.took(self.now() - passed.at)
            self.changed()
            return
        lane.ended += 1
        lane.queue.ended(self.now() - passed.at)
        if lane.turns:
            self._serve(lane)
        self.changed()

    def limit(self, key: LaneKey, limit: int | None, dedicated: frozenset[str]) -> None:
        """The scheduler said how many requests of a lane may be under way here."""
        lane = self._lanes.get(key)
        if lane is None:
            return
        lane.answered = True
        lane.queue.limit = limit
        lane.dedicated = dedicated
        if lane.turns:
            self._serve(lane)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watches deadlines and the event loop for as long as the block lasts."""
        task = asyncio.create_task(self._watch(), name="gate")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def look(self) -> None:
        """What is done ten times a second: refuses whose deadline has come, takes rates, forgets unused lanes."""
        now = self.now()
        for key, lane in list(self._lanes.items()):
            if lane.turns:
                self._refuse(lane, lane.queue.hopeless(now))
            elapsed_s = now - lane.rated_at
            if elapsed_s >= _RATE_S:
                lane.ended_per_s, lane.ended, lane.rated_at = lane.ended / elapsed_s, 0, now
            if lane.reservations:
                lane.reservations = {org: told for org, told in lane.reservations.items() if now - told[1] < IDLE_S}
            if lane.idle and now - lane.used_at > IDLE_S:
                del self._lanes[key]

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self._lag.look(loop.time() - due)
            self.look()

    def _lane_of(self, asked: Asked) -> Lane:
        key = LaneKey(asked.model, asked.region)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._new(key)
        if lane.dedicated and asked.org_id in lane.dedicated:
            key = LaneKey(asked.model, asked.region, asked.org_id)
            lane = self._lanes.get(key) or self._new(key)
        return lane

    def _new(self, key: LaneKey) -> Lane:
        lane = self._lanes[key] = Lane(key, rated_at=self.now())
        if len(self._lanes) > MAX_LANES:
            idle = next((other for other, known in self._lanes.items() if known.idle and known is not lane), None)
            if idle is not None:
                del self._lanes[idle]
        return lane

    def _free(self, lane: Lane) -> None:
        lane.queue.in_flight -= 1
        self._serve(lane)

    def _serve(self, lane: Lane) -> None:
        for waiter in lane.queue.ready():
            turn = lane.turns.pop(waiter)
            if turn.done():
                lane.queue.in_flight -= 1
            else:
                turn.set_result(None)

    def _refuse(self, lane: Lane, refused: list[Waiter]) -> None:
        for waiter in refused:
            self.refused[waiter.rank] += 1
            turn = lane.turns.pop(waiter, None)
            if turn is not None and not turn.done():
                retry_after_s = lane.queue.wait_s(len(lane.queue))
                turn.set_exception(overloaded(retry_after_s, f"{len(lane.queue)} wait for {lane.key.model}"))
