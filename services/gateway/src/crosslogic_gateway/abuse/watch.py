"""Counts what each key's requests come to, and has a key suspended that does harm."""

import asyncio
from collections import OrderedDict

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_gateway.abuse.policy import INVALID, TOO_FAST, AbusePolicy, Counts, verdict
from crosslogic_gateway.abuse.ports import Suspends
from crosslogic_gateway.domain import Principal

MAX_KEYS = 10_000
"""Keys counted at a time; the one that began longest ago makes room."""
MAX_SUSPENSIONS = 64


class AbuseWatch:
    """One worker's counts. What it does on every request is one look-up and one addition."""

    def __init__(self, *, policy: AbusePolicy, suspends: Suspends, max_keys: int = MAX_KEYS) -> None:
        self._policy = policy
        self._suspends = suspends
        self._max_keys = max_keys
        self._counts: OrderedDict[str, Counts] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = get_logger(__name__)
        self.suspended_total = 0
        """Keys that this worker had suspended since it started."""

    def __len__(self) -> int:
        """Keys counted now."""
        return len(self._counts)

    def request(self, principal: Principal, now: float) -> None:
        """A request of the key arrived at `now`, the event loop's time."""
        counts = self._counts.get(principal.api_key_id)
        if counts is None or now >= counts.ends_at:
            counts = self._fresh(principal.api_key_id, now)
        counts.requests += 1

    def refused(self, principal: Principal, code: ErrorCode) -> None:
        """The request was refused."""
        counts = self._counts.get(principal.api_key_id)
        if counts is None:
            return
        if code in INVALID:
            counts.invalid += 1
        elif code in TOO_FAST:
            counts.too_fast += 1
        else:
            return
        if counts.reported or len(self._tasks) >= MAX_SUSPENSIONS:
            return
        reason = verdict(self._policy, counts, principal.key_limits.requests_per_minute)
        if reason:
            # Once a window: should it fail, the next window tries again.
            counts.reported = True
            task = asyncio.create_task(self._suspend(principal.api_key_id, reason), name="suspend for abuse")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Waits for suspensions under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _fresh(self, api_key_id: str, now: float) -> Counts:
        self._counts.pop(api_key_id, None)
        counts = self._counts[api_key_id] = Counts(now + self._policy.window_s)
        if len(self._counts) > self._max_keys:
            self._counts.popitem(last=False)
        return counts

    async def _suspend(self, api_key_id: str, reason: str) -> None:
        try:
            await self._suspends.suspend(api_key_id, reason)
        except CodedError as error:
            self._log.error("key not suspended", api_key_id=api_key_id, why=reason, reason=error.private or error.code)
            return
        self.suspended_total += 1
        self._log.warning("key suspended", api_key_id=api_key_id, why=reason)
