"""A day of load on machines that take their time to start: the autoscaler's own policy decides, an oracle knows.

One queue and many places, as the scheduler makes of a fleet that picks by load: a request that finds a free place gets
its first token after `PREFILL_S`, one that finds none waits for its turn. A machine has `PLACES` places, costs money
from the moment it is asked for, and serves `cold_start_s` later. One that is ended takes nothing new and leaves when
what ran on it is over, which is not paid for: on average a few seconds.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from crosslogic_orchestrator.scaling.domain import (
    Deployment,
    History,
    Load,
    Member,
    Offer,
    Plan,
    Snapshot,
)
from crosslogic_orchestrator.scaling.policy import decide, remember

PLACES = 16
STREAM_TOKENS_PER_S = 50.0
TOKENS_A_REQUEST = 200.0
PREFILL_S = 0.2
SLO_S = 2.0
WINDOW_S = 10
TICK_S = 5
START = datetime(2026, 11, 20, tzinfo=UTC)
OFFER = Offer(
    provider="sim",
    region="anywhere",
    instance_type="one",
    spot=False,
    price_picodollars=10**12,
    expected_price_picodollars=10**12,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A load: how many requests a second there are at each moment."""

    hours: float = 24.0
    per_s: float = 6.0
    """On average, without the burst."""
    swing: float = 0.4
    """How much more there is at noon than on average."""
    burst: float = 10.0
    """Times what there is otherwise."""
    burst_at_h: float = 14.3
    again_at_h: tuple[float, ...] = ()
    """When there are more such bursts."""
    burst_lasts_s: float = 1_800.0
    burst_ramp_s: float = 0.0
    """In how many seconds it grows and ends. 0: at once."""

    def rate(self, at_s: float) -> float:
        """Requests a second; nobody could foresee the burst."""
        return self.usual(at_s) * (1 + (self.burst - 1) * self._bursting(at_s))

    def usual(self, at_s: float) -> float:
        """Requests a second on any other day."""
        return self.per_s * (1 + self.swing * math.sin(2 * math.pi * (at_s / 86_400 - 0.3)))

    def _bursting(self, at_s: float) -> float:
        return max(self._within(at_s - hour * 3600) for hour in (self.burst_at_h, *self.again_at_h))

    def _within(self, since_s: float) -> float:
        left_s = self.burst_lasts_s - since_s
        if since_s < 0 or left_s < 0:
            return 0.0
        return 1.0 if self.burst_ramp_s <= 0 else min(1.0, since_s / self.burst_ramp_s, left_s / self.burst_ramp_s)


Request = tuple[float, float]
"""When it arrives, and how long it runs, in seconds."""


def requests(shape: Shape, *, seed: int) -> list[Request]:
    """Arrivals of a Poisson process, lengths of an exponential distribution."""
    dice = random.Random(seed)
    mean_s = TOKENS_A_REQUEST / STREAM_TOKENS_PER_S
    most = shape.per_s * (1 + shape.swing) * max(1.0, shape.burst)
    found: list[Request] = []
    at_s, end_s = 0.0, shape.hours * 3600
    while True:
        rate = shape.rate(at_s)
        # Steps of the burst are met to the second; within one the rate hardly moves.
        ahead_s = min(dice.expovariate(rate if rate > 0 else most), 1.0)
        at_s += ahead_s
        if at_s >= end_s:
            return found
        if ahead_s < 1.0:
            found.append((at_s, dice.expovariate(1 / mean_s)))


@dataclass(slots=True)
class Pool:
    """The places and who is in them."""

    places: int = 0
    running: list[float] = field(default_factory=list)
    """A heap of the moments at which requests end."""
    waiting: deque[Request] = field(default_factory=deque)
    waits: list[tuple[float, float]] = field(default_factory=list)
    """Arrival and time to the first token of each request that was begun."""

    def arrive(self, request: Request) -> None:
        """A request comes."""
        self.pass_until(request[0])
        if len(self.running) < self.places:
            self._begin(request, request[0])
        else:
            self.waiting.append(request)

    def pass_until(self, now_s: float) -> None:
        """Lets end what ends, and begin what waits for it."""
        while self.running and self.running[0] <= now_s:
            ended_s = heapq.heappop(self.running)
            if self.waiting and len(self.running) < self.places:
                self._begin(self.waiting.popleft(), ended_s)

    def resize(self, places: int, now_s: float) -> None:
        """There are so many places from now on; whoever runs goes on."""
        self.pass_until(now_s)
        self.places = places
        while self.waiting and len(self.running) < places:
            self._begin(self.waiting.popleft(), now_s)

    def _begin(self, request: Request, now_s: float) -> None:
        arrived_s, lasts_s = request
        heapq.heappush(self.running, now_s + lasts_s)
        self.waits.append((arrived_s, now_s - arrived_s + PREFILL_S))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a day."""

    machine_seconds: float
    """That were paid for."""
    below_slo: float
    """Share of the windows whose 95th percentile of the time to the first token was within the SLO."""
    requests_in_time: float
    """Share of the requests whose first token came within the SLO."""
    most_machines: int
    launches: int
    machines: tuple[int, ...]
    """Paid for, at each tick."""
    p95_s: tuple[float, ...]
    """By window."""


@dataclass(frozen=True, slots=True)
class World:
    """What does not depend on who decides."""

    arrivals: Sequence[Request]
    end_s: float
    cold_start_s: float


def by_policy(world: World, deployment: Deployment, *, forecast: Sequence[float]) -> Outcome:
    """`forecast` has the usual tokens a second of each hour of the day; empty: nothing is known of other days.

    The fleet was there the day before: it begins with what is usual at that hour, as the oracle's begins with what it
    will need.
    """
    pool, history = Pool(), History()
    first = decide(deployment, _snapshot(pool, {}, (), 0.0, world.cold_start_s, forecast), history).desired
    members: dict[str, float] = {f"m{n}": -world.cold_start_s for n in range(first)}
    paid_s, launches, counts = 0.0, 0, []
    coming = _arrivals_by_tick(world)
    for number, batch in enumerate(coming):
        now_s = float(number * TICK_S)
        ready = [name for name, asked_s in members.items() if asked_s + world.cold_start_s <= now_s]
        pool.resize(len(ready) * PLACES, now_s)
        snapshot = _snapshot(pool, members, ready, now_s, world.cold_start_s, forecast)
        plan = decide(deployment, snapshot, history)
        history = remember(deployment, history, plan, now=snapshot.now)
        launches += len(plan.launches)
        _carry_out(plan, members, now_s, launches)
        pool.resize(sum(1 for name in ready if name in members) * PLACES, now_s)
        paid_s += len(members) * TICK_S
        counts.append(len(members))
        for request in batch:
            pool.arrive(request)
    return _outcome(pool, world, paid_s, launches, counts)


def by_schedule(world: World, machines: Sequence[int], *, paid_s: float) -> Outcome:
    """So many machines at each tick."""
    pool = Pool()
    for number, batch in enumerate(_arrivals_by_tick(world)):
        pool.resize(machines[number] * PLACES, float(number * TICK_S))
        for request in batch:
            pool.arrive(request)
    launches = sum(max(0, after - before) for before, after in pairwise(machines))
    return _outcome(pool, world, paid_s, launches, machines)


def by_oracle(world: World, *, share: float) -> Outcome:
    """The cheapest day with `share` of the time below the SLO, by somebody who knows every request beforehand.

    It counts the requests that run at once, and keeps places for a quantile of them in each window: the lowest that
    reaches `share`. Machines are asked for before they are needed, and kept over a lull that is shorter than a start.
    """
    best: Outcome | None = None
    at_once = _at_once(world)
    for quantile in (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0):
        needed = [max(1, math.ceil(_quantile(window, quantile) / PLACES)) for window in at_once]
        kept, paid_s = _kept(needed, cold_start_s=world.cold_start_s)
        ticks = [kept[min(len(kept) - 1, n * TICK_S // WINDOW_S)] for n in range(math.ceil(world.end_s / TICK_S))]
        outcome = by_schedule(world, ticks, paid_s=paid_s)
        if best is not None and outcome.below_slo < share:
            return best
        best = outcome
    assert best is not None  # the loop ran
    return best


def usual_hours(shape: Shape, *, days: int, seed: int) -> list[float]:
    """The mean tokens a second of each hour of the day, over days before: with their noise, without the burst."""
    dice = random.Random(seed)
    hours: list[float] = []
    for hour in range(24):
        usual = shape.usual(hour * 3600 + 1800) * 3600
        seen = [max(0.0, dice.gauss(usual, math.sqrt(usual))) for _ in range(days)]
        hours.append(sum(seen) / days / 3600 * TOKENS_A_REQUEST)
    return hours


def _snapshot(
    pool: Pool,
    members: dict[str, float],
    ready: Sequence[str],
    now_s: float,
    cold_start_s: float,
    forecast: Sequence[float],
) -> Snapshot:
    shared = len(ready) or 1
    running = min(len(pool.running), len(ready) * PLACES)
    load = Load(
        running=running // shared,
        waiting=len(pool.waiting) // shared,
        tokens_per_s=running * STREAM_TOKENS_PER_S / shared,
        capacity_tokens_per_s=PLACES * STREAM_TOKENS_PER_S,
        max_sequences=PLACES,
    )
    now = START + timedelta(seconds=now_s)
    there = set(ready)
    return Snapshot(
        now=now,
        members=tuple(
            Member(
                id=name,
                phase="ready" if name in there else "launching",
                price_picodollars=OFFER.price_picodollars,
                since=START + timedelta(seconds=asked_s),
                load=load if name in there else Load(),
            )
            for name, asked_s in members.items()
        ),
        held_requests=0 if ready else len(pool.waiting),
        forecast_tokens_per_s=_expected(forecast, now_s, cold_start_s),
        tokens_per_request=TOKENS_A_REQUEST,
        capacity_tokens_per_s=PLACES * STREAM_TOKENS_PER_S,
        max_sequences=PLACES,
        start_s=cold_start_s,
        offers=(OFFER,),
    )


def _expected(forecast: Sequence[float], now_s: float, cold_start_s: float) -> float:
    if not forecast:
        return 0.0
    return max(_between_hours(forecast, now_s), _between_hours(forecast, now_s + cold_start_s))


def _between_hours(forecast: Sequence[float], at_s: float) -> float:
    hour, part = divmod(at_s / 3600 - 0.5, 1)
    before, after = forecast[int(hour) % len(forecast)], forecast[(int(hour) + 1) % len(forecast)]
    return before + (after - before) * part


def _carry_out(plan: Plan, members: dict[str, float], now_s: float, launched: int) -> None:
    for number in range(len(plan.launches)):
        members[f"n{launched - number}"] = now_s
    for end in plan.ends:
        del members[end.member_id]


def _arrivals_by_tick(world: World) -> Iterator[Sequence[Request]]:
    begin = 0
    for number in range(math.ceil(world.end_s / TICK_S)):
        end = begin
        while end < len(world.arrivals) and world.arrivals[end][0] < (number + 1) * TICK_S:
            end += 1
        yield world.arrivals[begin:end]
        begin = end


def _at_once(world: World) -> list[list[int]]:
    """How many requests would run at each second of each window, were there always room."""
    changes = [0] * (math.ceil(world.end_s) + 1)
    for arrived_s, lasts_s in world.arrivals:
        changes[int(arrived_s)] += 1
        ends_s = int(arrived_s + lasts_s) + 1
        if ends_s < len(changes):
            changes[ends_s] -= 1
    windows: list[list[int]] = []
    running = 0
    for second in range(math.ceil(world.end_s)):
        running += changes[second]
        if second % WINDOW_S == 0:
            windows.append([])
        windows[-1].append(running)
    return windows


def _kept(needed: Sequence[int], *, cold_start_s: float) -> tuple[list[int], float]:
    """Machines that serve, by window, and the machine seconds to pay: each start is paid too."""
    kept = [0] * len(needed)
    paid_s = 0.0
    for level in range(1, max(needed) + 1):
        ended: int | None = None
        for at, count in enumerate(needed):
            if count < level:
                continue
            lull = 0 if ended is None else at - ended - 1
            if ended is None or lull * WINDOW_S >= cold_start_s:
                # The first machines are there when the day begins, as they are for the policy.
                paid_s += cold_start_s if at else 0.0
                begin = at
            else:
                begin = at - lull
            for window in range(begin, at + 1):
                kept[window] += 1
            paid_s += (at + 1 - begin) * WINDOW_S
            ended = at
    return kept, paid_s


def _outcome(pool: Pool, world: World, paid_s: float, launches: int, machines: Sequence[int]) -> Outcome:
    pool.pass_until(math.inf)
    windows: list[list[float]] = [[] for _ in range(math.ceil(world.end_s / WINDOW_S))]
    # What never began waited for as long as the day lasted.
    late = [(arrived_s, math.inf) for arrived_s, _ in pool.waiting]
    for arrived_s, wait_s in (*pool.waits, *late):
        windows[int(arrived_s / WINDOW_S)].append(wait_s)
    p95 = tuple(_quantile(window, 0.95) if window else 0.0 for window in windows)
    in_time = sum(1 for _, wait_s in pool.waits if wait_s <= SLO_S)
    return Outcome(
        machine_seconds=paid_s,
        below_slo=sum(1 for value in p95 if value <= SLO_S) / len(p95),
        requests_in_time=in_time / max(1, len(pool.waits) + len(late)),
        most_machines=max(machines),
        launches=launches,
        machines=tuple(machines),
        p95_s=p95,
    )


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def shorter(shape: Shape, hours: float) -> Shape:
    """The hours around the burst alone."""
    return replace(shape, hours=hours, burst_at_h=hours / 2)
