"""Resolved keys in Redis, so that a new gateway worker need not ask identity for every key.

`identity:key:<sha256 hex>` holds `<generation>:<serialised Principal>` for at most 60 s. `identity:generation` counts
revocations: an entry of another generation is void. A resolve stamps its entry with the generation it read *before* it
asked the database, so a revocation that crosses it voids the entry, however late the write arrives. Redis is never
needed: one call is given 100 ms, and after one that failed none is tried for a second.
"""

import asyncio
from collections.abc import Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from crosslogic.identity.v1 import identity_pb2 as identity_pb
from crosslogic_common.clock import Clock
from crosslogic_common.logs import get_logger
from crosslogic_identity.metrics import IdentityMetrics

GENERATION_KEY = "identity:generation"
ENTRY_TTL_S = 60
BUDGET_S = 0.1
PAUSE_S = 1.0
RETRY_S = 0.25
MAX_WRITES = 64

_FAILURES = (RedisError, TimeoutError, OSError)


def entry_key(key_sha256: bytes) -> str:
    """Where a key's owner is kept."""
    return f"identity:key:{key_sha256.hex()}"


class SharedCache:
    """Writes the entries that gateways read. `run` tells Redis later what it could not be told at once."""

    def __init__(self, redis: Redis, *, clock: Clock, metrics: IdentityMetrics, budget_s: float = BUDGET_S) -> None:
        """`budget_s` is the longest that any call waits for Redis."""
        self._redis = redis
        self._clock = clock
        self._metrics = metrics
        self._budget_s = budget_s
        self._asked = 0
        """Revocations that Redis must be told of, counted; `_told` of them it was."""
        self._told = 0
        self._behind = asyncio.Event()
        self._paused_until = 0.0
        self._writes: set[asyncio.Task[None]] = set()
        self._log = get_logger(__name__)

    async def generation(self) -> bytes | None:
        """The generation now. None: do not keep what you are about to read."""
        if self._behind.is_set() or self._clock.monotonic() < self._paused_until:
            return None
        try:
            async with asyncio.timeout(self._budget_s):
                value = await self._redis.get(GENERATION_KEY)
        except _FAILURES as error:
            self._failed(error)
            return None
        return b"0" if value is None else bytes(value) if isinstance(value, bytes) else value.encode()

    def put(self, key_sha256: bytes, principal: identity_pb.Principal, generation: bytes) -> None:
        """Keeps an owner that was read after `generation`. Never waits; with 64 writes under way it does nothing."""
        if len(self._writes) >= MAX_WRITES:
            self._metrics.cache_write("dropped")
            return
        task = asyncio.create_task(self._write(key_sha256, generation + b":" + principal.SerializeToString()))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def forget_all(self) -> None:
        """Voids every entry, or leaves that to `run`: within the budget, and never raising."""
        self._asked += 1
        # While Redis is known to be behind, pushes to the gateways are not held up by trying it each time.
        if not self._behind.is_set() and not await self._told_redis():
            self._behind.set()
            self._metrics.cache_behind(behind=True)

    async def run(self, on_caught_up: Callable[[], None]) -> None:
        """Repeats what Redis was not told, until it was; then calls `on_caught_up`. Runs until it is cancelled.

        A gateway that was told of a revocation while Redis did not answer may have read the old entry since: it must be
        told again.
        """
        while True:
            await self._behind.wait()
            await asyncio.sleep(RETRY_S)
            if await self._told_redis():
                self._behind.clear()
                self._metrics.cache_behind(behind=False)
                self._log.info("redis was told of all revocations")
                on_caught_up()

    async def _told_redis(self) -> bool:
        """Whether Redis now knows of every revocation asked for so far."""
        asked = self._asked
        try:
            async with asyncio.timeout(self._budget_s):
                await self._redis.incr(GENERATION_KEY)
        except _FAILURES as error:
            self._failed(error)
            return False
        self._told = max(self._told, asked)
        # One that was asked for while this was on its way may have been committed after Redis counted.
        return self._told == self._asked

    async def _write(self, key_sha256: bytes, entry: bytes) -> None:
        try:
            async with asyncio.timeout(self._budget_s):
                await self._redis.set(entry_key(key_sha256), entry, ex=ENTRY_TTL_S)
        except _FAILURES as error:
            self._metrics.cache_write("failed")
            self._failed(error)
            return
        self._metrics.cache_write("stored")

    def _failed(self, error: BaseException) -> None:
        self._paused_until = self._clock.monotonic() + PAUSE_S
        self._log.warning("redis did not answer", error=type(error).__name__, reason=str(error))
