"""Limits without Redis: this worker's share of each, in its memory. Pure."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from crosslogic_gateway.admission.limits import CONCURRENCY, Counter, Kind, Spec
from crosslogic_gateway.admission.refusals import rate_refusal, too_large

MAX_OWNERS = 50_000
"""Counters kept; beyond it the one that was used longest ago is forgotten."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every limit is this worker's."""

    workers: int = 1
    rank: int = 0
    """From 0. The rest of a division goes to the first ones, so that all shares make up the limit."""

    def of(self, limit: int) -> int:
        """This worker's part."""
        return limit // self.workers + (1 if self.rank < limit % self.workers else 0)


@dataclass(slots=True)
class SlidingWindow:
    """As in `lua/admission.lua`: a bucket counts until all of it is older than the window."""

    window_us: int
    buckets: int
    total: int = 0
    busy_until_us: float = 0.0
    """One request that is more than the whole window allows keeps it busy until then."""
    amounts: dict[int, int] = field(default_factory=dict)

    def _bucket(self, at_us: float) -> int:
        return int(at_us * self.buckets // self.window_us)

    def slide(self, now_us: float) -> None:
        """Forgets what is older than the window."""
        first = self._bucket(now_us) - self.buckets
        # In the order of time, but for what a settlement wrote back: a look at each is cheap, they are few.
        for bucket in [bucket for bucket in self.amounts if bucket < first]:
            self.total -= self.amounts.pop(bucket)

    def add(self, at_us: float, amount: int) -> None:
        """Counts `amount`, which may be negative; nothing becomes less than zero."""
        bucket = self._bucket(at_us)
        before = self.amounts.get(bucket, 0)
        if amount < 0 and bucket not in self.amounts:
            return
        after = max(0, before + amount)
        self.amounts[bucket] = after
        self.total += after - before

    def fits_in_us(self, now_us: float, limit: int, amount: int) -> float:
        """When `amount` more will fit under `limit`."""
        missing = self.total + amount - limit
        for bucket in sorted(self.amounts):
            missing -= self.amounts[bucket]
            if missing <= 0:
                return (bucket + self.buckets + 1) * self.window_us / self.buckets - now_us
        return float(self.window_us)


@dataclass(frozen=True, slots=True)
class Held:
    """What a request holds of this worker's shares."""

    spec: Spec
    at_us: float
    tokens: int


class LocalLimits:
    """Enforces shares. One a worker."""

    def __init__(self, *, kinds: Sequence[Kind]) -> None:
        self._kinds = kinds
        self._windows: OrderedDict[tuple[int, str, int], SlidingWindow] = OrderedDict()
        self._places: dict[tuple[int, str], int] = {}
        self.share = Share()

    def admit(
        self, spec: Spec, *, tokens: int, now_us: float, last_totals: Sequence[int] | None = None
    ) -> tuple[Held, list[int]]:
        """Lets a request in, with the totals of its counters as if the shares were the limits.

        `last_totals` is what Redis counted when it was last heard of, if that is recent: what others had used by then
        is not given out again. Raises RefusedError.
        """
        windows: list[tuple[SlidingWindow, int]] = []
        for place, counter in enumerate(spec.counters):
            share = self.share.of(counter.limit)
            if counter.kind_index == CONCURRENCY:
                used = self._places.get((counter.layer_index, counter.owner_id), 0)
                if used >= share:
                    raise rate_refusal(counter, self._kinds, used, 0)
                continue
            amount = tokens if self._kinds[counter.kind_index].counted == "tokens" else 1
            window = self._window(counter, share, now_us, None if last_totals is None else last_totals[place])
            if now_us < window.busy_until_us or window.total + amount > share:
                self._check_alone(counter, window, share=share, amount=amount, now_us=now_us)
            windows.append((window, amount))
        for window, amount in windows:
            window.add(now_us, amount)
        self._take_places(spec, 1)
        left = iter(windows)
        totals = [
            counter.limit
            - self.share.of(counter.limit)
            + (0 if counter.kind_index == CONCURRENCY else next(left)[0].total)
            for counter in spec.counters
        ]
        return Held(spec, now_us, tokens), totals

    def _check_alone(self, counter: Counter, window: SlidingWindow, *, share: int, amount: int, now_us: float) -> None:
        """Raises RefusedError, but for what is more than a second's tokens and runs alone, as in Redis.

        It keeps the second busy for as long as its tokens take at this worker's share of the rate.
        """
        kind = self._kinds[counter.kind_index]
        paced = kind.unit == "second" and kind.counted == "tokens" and share > 0
        if paced and amount > share and not window.total and now_us >= window.busy_until_us:
            window.busy_until_us = now_us + window.window_us * amount / share
            return
        if amount > counter.limit and not paced:
            raise too_large(counter, self._kinds, amount)
        retry_us = max(window.busy_until_us - now_us, window.fits_in_us(now_us, share, min(amount, share)))
        raise rate_refusal(counter, self._kinds, counter.limit - share + window.total, retry_us)

    def settle(self, held: Held, *, tokens: int, now_us: float) -> None:
        """The request ended and used `tokens`."""
        self._take_places(held.spec, -1)
        for counter in held.spec.counters:
            if counter.kind_index == CONCURRENCY or self._kinds[counter.kind_index].counted != "tokens":
                continue
            window = self._windows.get((counter.layer_index, counter.owner_id, counter.kind_index))
            if window is not None:
                window.slide(now_us)
                window.add(held.at_us, tokens - held.tokens)

    def adopt(self, specs: Iterable[Spec]) -> None:
        """Redis went away: these requests, which it let in, are under way."""
        self._windows.clear()
        self._places.clear()
        for spec in specs:
            self._take_places(spec, 1)

    def give_place(self, spec: Spec) -> None:
        """One of those ended."""
        self._take_places(spec, -1)

    def _take_places(self, spec: Spec, change: int) -> None:
        for counter in spec.counters:
            if counter.kind_index == CONCURRENCY:
                owner = (counter.layer_index, counter.owner_id)
                left = self._places.get(owner, 0) + change
                if left > 0:
                    self._places[owner] = left
                else:
                    self._places.pop(owner, None)

    def _window(self, counter: Counter, share: int, now_us: float, last_total: int | None) -> SlidingWindow:
        key = (counter.layer_index, counter.owner_id, counter.kind_index)
        window = self._windows.get(key)
        if window is None:
            kind = self._kinds[counter.kind_index]
            window = self._windows[key] = SlidingWindow(kind.window_us, kind.buckets)
            if last_total is not None:
                left = self.share.of(max(0, counter.limit - last_total))
                window.add(now_us, max(0, share - left))
            if len(self._windows) > MAX_OWNERS:
                self._windows.popitem(last=False)
        else:
            self._windows.move_to_end(key)
        window.slide(now_us)
        return window
