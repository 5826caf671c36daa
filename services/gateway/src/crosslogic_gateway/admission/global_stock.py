"""The limits of the whole service: taken from Redis in batches that each worker hands out by itself."""

import asyncio
import math
from collections.abc import Callable, Sequence

from crosslogic_gateway.admission.limits import CONCURRENCY, Kind, make_spec
from crosslogic_gateway.admission.local import LocalLimits
from crosslogic_gateway.admission.pipe import GIVE, TAKE, Operation, ScriptPipe
from crosslogic_gateway.admission.redis_link import RedisAway
from crosslogic_gateway.admission.refusals import RefusedError, overloaded
from crosslogic_gateway.domain import Limits, Principal

TAG = "global"
FIRST_REQUESTS = 8
AHEAD = 2
"""A batch is for so many times what was handed out of the one before."""


class GlobalStock:
    """What this worker may still hand out. One a worker."""

    def __init__(self, *, pipe: ScriptPipe, kinds: Sequence[Kind], limits: Limits, local: LocalLimits) -> None:
        """`limits` are the whole service's; its concurrency is not limited here."""
        principal = Principal(TAG, "", "", "", None, "", None, org_limits=limits)
        self._spec = make_spec(principal)
        self._pipe = pipe
        self._local = local
        windows = [(kinds[c.kind_index], c.limit) for c in self._spec.counters if c.kind_index != CONCURRENCY]
        # A batch is older than what is handed out of it by less than one step of the window, and so counts in time.
        self._keep_s = min(kind.window_us / kind.buckets for kind, _ in windows) / 1e6
        self.counts_tokens = any(kind.counted == "tokens" for kind, _ in windows)
        self._most_tokens, self._seconds_a_token = _narrowest(windows, "tokens", unlimited=0)
        self._most_requests, self._seconds_a_request = _narrowest(windows, "requests", unlimited=2**31)
        self._requests = 0
        self._tokens = 0
        self._taken_at = 0
        self._room_in_s = 0.0
        """When there will be something again, as Redis said when there was nothing."""
        self._until = 0.0
        self._handed_requests = 0
        self._handed_tokens = 0
        self._waiting = 0
        self._waiting_tokens = 0
        self._refill: asyncio.Task[bool] | None = None
        self._loop = asyncio.get_running_loop()

    async def take(self, tokens: int) -> int:
        """Takes one request with so many tokens. Raises RefusedError OVERLOADED.

        Returns when the batch was taken that it came from, for `give_back`.
        """
        wanted = min(tokens, self._most_tokens) if self.counts_tokens else 0
        while self._pipe.up:
            if self._hand_out(wanted):
                return self._taken_at
            self._waiting += 1
            self._waiting_tokens += wanted
            try:
                plenty = await self._refilled()
            except RedisAway:
                break
            finally:
                self._waiting -= 1
                self._waiting_tokens -= wanted
            if not plenty:
                if self._hand_out(wanted):
                    return self._taken_at
                raise overloaded(max(self._keep_s, self._room_in_s))
        try:
            self._local.admit(self._spec, tokens=wanted, now_us=self._loop.time() * 1e6)
        except RefusedError as refused:
            raise overloaded(refused.retry_after_s or 1.0) from None
        return 0

    def give_back(self, unused_tokens: int, taken_at: int) -> None:
        """A request ended and had not used this much of what it took."""
        if taken_at and unused_tokens > 0 and self.counts_tokens:
            self._pipe.tell(TAG, self._spec, _give(0, unused_tokens, taken_at))

    def put_back(self, tokens: int) -> None:
        """A request that had taken its part was refused elsewhere."""
        if self._loop.time() < self._until:
            self._requests += 1
            self._tokens += min(tokens, self._most_tokens)

    def seconds_for(self, tokens: float) -> float:
        """How long it takes at this worker until one request more with so many tokens is allowed."""
        return max(self._seconds_a_request, self._seconds_a_token * tokens) * self._local.share.workers

    def close(self) -> None:
        """Gives back what is left."""
        self._return()

    def _hand_out(self, tokens: int) -> bool:
        if self._loop.time() >= self._until:
            self._return()
            return False
        if self._requests < 1 or self._tokens < tokens:
            return False
        self._requests -= 1
        self._tokens -= tokens
        self._handed_requests += 1
        self._handed_tokens += tokens
        return True

    async def _refilled(self) -> bool:
        """Takes a batch, one at a time for all who wait. False: there was less than was asked for."""
        if self._refill is None:
            self._refill = asyncio.create_task(self._take_batch(), name="global limits")
        task = self._refill
        await asyncio.wait([task])
        return task.result()

    async def _take_batch(self) -> bool:
        try:
            self._return()
            ahead = AHEAD * self._handed_requests
            mean = math.ceil(self._handed_tokens / self._handed_requests) if self._handed_requests else 0
            self._handed_requests = self._handed_tokens = 0
            # What a worker hoards others lack: never more ahead than an eighth of the limit.
            requests = max(self._waiting, min(max(FIRST_REQUESTS, ahead), self._most_requests // 8))
            tokens = max(self._waiting_tokens, min(ahead * mean, self._most_tokens // 8))
            granted = await self._pipe.ask(TAG, self._spec, _take(requests, tokens))
            self._requests, self._tokens, self._taken_at, room_in_us = granted
            self._room_in_s = room_in_us / 1e6
            self._until = self._loop.time() + self._keep_s
            return self._requests >= requests and self._tokens >= tokens
        finally:
            self._refill = None

    def _return(self) -> None:
        if (self._requests or self._tokens) and self._taken_at:
            self._pipe.tell(TAG, self._spec, _give(self._requests, self._tokens, self._taken_at))
        self._requests = self._tokens = self._taken_at = 0


def _narrowest(windows: Sequence[tuple[Kind, int]], counted: str, *, unlimited: int) -> tuple[int, float]:
    """Of what is counted: the smallest limit, `unlimited` if there is none, and the seconds that one takes at most."""
    limited = [(kind.window_us / 1e6, limit) for kind, limit in windows if kind.counted == counted]
    return (
        min((limit for _, limit in limited), default=unlimited),
        max((window_s / max(limit, 1) for window_s, limit in limited), default=0.0),
    )


def _take(requests: int, tokens: int) -> Callable[[int], Operation]:
    return lambda index: (TAKE, index, requests, tokens)


def _give(requests: int, tokens: int, taken_at: int) -> Callable[[int], Operation]:
    return lambda index: (GIVE, index, requests, tokens, taken_at)
