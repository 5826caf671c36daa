"""Resolved keys in Redis, so that a new gateway worker need not ask identity for every key.

`identity:key:<sha256 hex>` holds `<generation>:<serialised Principal>` for 60 s. `identity:generation` counts
revocations: an entry of another generation is void. A resolve stamps its entry with the generation it read *before* it
asked the database, so a revocation that crosses it voids the entry. Redis is never needed: each call ends in 100 ms.
"""

import asyncio
import contextlib

from redis.asyncio import Redis
from redis.exceptions import RedisError

from crosslogic.identity.v1 import identity_pb2 as identity_pb
from crosslogic_common.logs import get_logger

GENERATION_KEY = "identity:generation"
ENTRY_TTL_S = 60
BUDGET_S = 0.1


def entry_key(key_sha256: bytes) -> str:
    """Where a key's owner is kept."""
    return f"identity:key:{key_sha256.hex()}"


class SharedCache:
    """Writes the entries that gateways read."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._missed = False
        self._log = get_logger(__name__)

    async def generation(self) -> bytes | None:
        """The generation now. None: Redis is away, or a revocation could not be told to it yet."""
        if self._missed:
            await self.forget_all()
        with contextlib.suppress(RedisError, TimeoutError, OSError):
            async with asyncio.timeout(BUDGET_S):
                value = await self._redis.get(GENERATION_KEY)
                return None if self._missed else value or b"0"
        return None

    async def put(self, key_sha256: bytes, principal: identity_pb.Principal, generation: bytes) -> None:
        """Keeps an owner that was read after `generation`."""
        with contextlib.suppress(RedisError, TimeoutError, OSError):
            async with asyncio.timeout(BUDGET_S):
                await self._redis.set(
                    entry_key(key_sha256), generation + b":" + principal.SerializeToString(), ex=ENTRY_TTL_S
                )

    async def forget_all(self) -> None:
        """Voids every entry; called for each revocation. Entries that Redis could not be told of end within 60 s."""
        try:
            async with asyncio.timeout(BUDGET_S):
                await self._redis.incr(GENERATION_KEY)
            self._missed = False
        except (RedisError, TimeoutError, OSError) as error:
            self._missed = True
            self._log.warning("shared key cache not voided", reason=str(error))
