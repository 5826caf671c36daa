"""Meters reserved capacity: how much of its capacity units an organisation has used, over all gateway workers.

A worker takes tokens out of the organisation's bucket in Redis a tenth of a second's worth at a time, and gives back
what it does not use: the hot path asks Redis a few times a second and not for each request.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger

BURST_S = 10.0
"""What an organisation saves up while it is idle, in seconds of its capacity."""
LEASE_S = 0.1
UNUSED_S = 1.0
"""After so long without a request a worker gives its tokens back."""
MAX_METERS = 10_000
_FIRST_GUESS = 256.0
_SMOOTHING = 0.1
REDIS_BUDGET_S = 0.05
_AWAY_S = 1.0


class Buckets(Protocol):
    """Where the organisations' tokens are."""

    async def take(self, org_id: str, model: str, *, units: int, wanted: int) -> tuple[int, float]:
        """Takes up to `wanted` tokens; below 0: gives them back.

        Returns those taken, and the seconds until there are some again. Raises UNAVAILABLE.
        """


class RedisBuckets:
    """`Buckets` in Redis."""

    def __init__(self, redis: Redis, *, budget_s: float = REDIS_BUDGET_S) -> None:
        """An answer that takes longer than `budget_s` is none."""
        self._budget_s = budget_s
        source = files("crosslogic_gateway.shedding").joinpath("lua", "reserved.lua").read_text(encoding="utf-8")
        self._script = redis.register_script(source)

    async def take(self, org_id: str, model: str, *, units: int, wanted: int) -> tuple[int, float]:
        """See Buckets."""
        try:
            async with asyncio.timeout(self._budget_s):
                granted, wait_ms = await self._script(
                    keys=[f"reserved:{{{org_id}}}:{model}"], args=(units, round(units * BURST_S), wanted)
                )
        except (RedisError, OSError, TimeoutError) as error:
            raise CodedError(ErrorCode.UNAVAILABLE, private=f"redis: {error!r}") from error
        return int(granted), int(wait_ms) / 1000


@dataclass(slots=True, eq=False)
class Meter:
    """One organisation's reserved capacity of one model, at this worker."""

    org_id: str
    model: str
    units: int
    balance: float = 0.0
    """Tokens that this worker may still let through. Below 0: more were generated than was guessed."""
    guess: float = _FIRST_GUESS
    """Tokens that a request lately generated."""
    used_at: float = 0.0
    refilled_at: float = 0.0
    empty_until: float = 0.0
    """Redis said that there is nothing before then."""
    refilling: "asyncio.Task[None] | None" = None
    wanting: int = 0
    """Requests that wait for tokens from Redis."""


class ReservedMeters:
    """All of one worker."""

    def __init__(self, buckets: Buckets, *, now: Callable[[], float], workers: int) -> None:
        """While Redis is away each of `workers` workers counts alone, with its part of the capacity."""
        self._buckets = buckets
        self._now = now
        self._workers = workers
        self._meters: OrderedDict[tuple[str, str], Meter] = OrderedDict()
        self._away_until = 0.0
        self._log = get_logger(__name__)

    def __len__(self) -> int:
        """Organisations and models that are metered."""
        return len(self._meters)

    @property
    def away(self) -> bool:
        """Whether Redis failed a moment ago."""
        return self._now() < self._away_until

    async def take(self, org_id: str, model: str, units: int, most: float) -> tuple[Meter, float] | None:
        """Lets a request through on reserved capacity that generates `most` tokens at most.

        Returns what was taken for it, and from where: whoever got it calls `settle`. None: the capacity is used up.
        """
        now = self._now()
        meter = self._meters.get((org_id, model))
        if meter is None:
            meter = self._new(org_id, model, units, now)
        meter.units, meter.used_at = units, now
        while meter.balance <= 0 and self._now() >= meter.empty_until:
            await self._refilled(meter)
        if meter.balance <= 0:
            return None
        taken = min(meter.guess, most)
        meter.balance -= taken
        return meter, taken

    def retry_after_s(self, org_id: str, model: str) -> float:
        """When there is capacity again, in seconds."""
        meter = self._meters.get((org_id, model))
        return 0.0 if meter is None else max(0.0, meter.empty_until - self._now(), -meter.balance / meter.units)

    @staticmethod
    def settle(meter: Meter, taken: float, completion_tokens: int) -> None:
        """A request generated this much, where `taken` was taken for it."""
        meter.balance += taken - completion_tokens
        if completion_tokens:
            meter.guess += _SMOOTHING * (completion_tokens - meter.guess)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Gives unused tokens back for as long as the block lasts."""
        task = asyncio.create_task(self._give_back_unused(), name="reserved capacity unused")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _new(self, org_id: str, model: str, units: int, now: float) -> Meter:
        meter = self._meters[org_id, model] = Meter(org_id, model, units, refilled_at=now)
        if len(self._meters) > MAX_METERS:
            self._meters.popitem(last=False)
        return meter

    async def _refilled(self, meter: Meter) -> None:
        meter.wanting += 1
        try:
            if meter.refilling is None:
                meter.refilling = asyncio.create_task(self._refill(meter), name="reserved capacity")
            # One question for all who wait for the answer; one who leaves does not take it from the others.
            await asyncio.shield(meter.refilling)
        finally:
            meter.wanting -= 1

    async def _refill(self, meter: Meter) -> None:
        try:
            if self.away:
                self._refill_alone(meter)
                return
            wanted = max(1, round(meter.units * LEASE_S + meter.guess * meter.wanting - meter.balance))
            granted, wait_s = await self._buckets.take(meter.org_id, meter.model, units=meter.units, wanted=wanted)
            meter.balance += granted
            meter.refilled_at = self._now()
            if granted < wanted:
                meter.empty_until = self._now() + max(wait_s, LEASE_S)
        except CodedError as error:
            self._away_until = self._now() + _AWAY_S
            self._log.warning("reserved capacity is metered alone", reason=error.private)
            self._refill_alone(meter)
        finally:
            meter.refilling = None

    def _refill_alone(self, meter: Meter) -> None:
        now = self._now()
        own = meter.units / self._workers
        meter.balance += min((now - meter.refilled_at) * own, own * BURST_S)
        meter.refilled_at = now
        meter.empty_until = now + LEASE_S

    async def _give_back_unused(self) -> None:
        while True:
            await asyncio.sleep(UNUSED_S)
            await self.give_back_unused()

    async def give_back_unused(self) -> None:
        """Gives back what organisations without requests have here."""
        now = self._now()
        if self.away:
            return
        for meter in list(self._meters.values()):
            unused = int(meter.balance)
            if unused <= 0 or now - meter.used_at < UNUSED_S:
                continue
            meter.balance -= unused
            with contextlib.suppress(CodedError):
                await self._buckets.take(meter.org_id, meter.model, units=meter.units, wanted=-unused)
