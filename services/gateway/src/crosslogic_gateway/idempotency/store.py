"""First answers in Redis: sealed, compressed, and gone by themselves. The scripts are in `lua/`, one operation each."""

import asyncio
import contextlib
import hashlib
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import cast

import msgspec
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.seal import Sealer
from crosslogic_gateway.idempotency.domain import Claim, Head, Names, Progress, Stage

BLOCK_BYTES = 256 * 1024
"""Bytes of an answer that are compressed and sealed at once: a few milliseconds of the event loop."""
PARTS_A_READ = 4
"""A megabyte at most: more would not come within the time that Redis has."""
_AWAY_S = 1.0
"""After a failure Redis is left alone for so long: a request in ten a second would hang on it otherwise."""
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """How long and how much."""

    budget_s: float = 0.05
    """Of one call of Redis on a request's way."""
    lease_s: float = 5.0
    """How long a worker that says nothing is taken to be alive."""
    keep_s: float = 86_400.0
    """How long an answer is kept."""
    max_bytes_a_caller: int = 256 * 1024 * 1024
    """Sealed bytes kept for one caller at a time."""


class RedisAnswers:
    """`AnswerStore` in Redis. Nothing in it tells whose an answer is, and nobody without the key can read one."""

    def __init__(self, redis: Redis, *, sealer: Sealer, clock: Clock, limits: StoreLimits) -> None:
        self._redis = redis
        self._sealer = sealer
        self._clock = clock
        self._limits = limits
        self._away_until = 0.0
        self._lease_ms = round(limits.lease_s * 1000)
        self._keep_ms = round(limits.keep_s * 1000)
        self._claim = self._script("claim")
        self._extend = self._script("extend")
        self._restart = self._script("restart")
        self._finish = self._script("finish")
        self._read = self._script("read")

    @property
    def away(self) -> bool:
        """Whether Redis failed a moment ago."""
        return self._clock.monotonic() < self._away_until

    async def claim(self, names: Names, *, owner: str, request_id: str) -> Claim:
        """See AnswerStore."""
        arguments = (names.fingerprint, owner, self._lease_ms, self._keep_ms, request_id)
        async with self._asking():
            stage, known_id = await self._claim(keys=_keys(names), args=arguments)
        return Claim(Stage(stage.decode()), known_id.decode())

    async def extend(
        self, names: Names, *, owner: str, written: int, head: Head | None, parts: Sequence[bytes]
    ) -> bool | None:
        """See AnswerStore."""
        more: list[bytes | int | str] = [owner, self._lease_ms, self._keep_ms, written]
        if parts and head is not None:
            more += [self._sealed_head(names, head), *await self._sealed(names, written, parts)]
        async with self._asking():
            answer = int(await self._extend(keys=_keys(names), args=more))
        return None if answer < 0 else answer > 0

    async def restart(self, names: Names, *, owner: str, new_owner: str) -> bool:
        """See AnswerStore."""
        async with self._asking():
            return int(await self._restart(keys=_keys(names), args=(owner, new_owner))) == 1

    async def finish(
        self, names: Names, *, owner: str, request_id: str, written: int, head: Head, parts: Sequence[bytes]
    ) -> bool:
        """See AnswerStore."""
        sealed = await self._sealed(names, written, parts)
        last = [self._sealed_head(names, head), *sealed]
        return await self._end(names, Stage.DONE, owner, request_id, written, last)

    async def drop(self, names: Names, *, owner: str, request_id: str) -> None:
        """See AnswerStore."""
        await self._end(names, Stage.DROPPED, owner, request_id, 0, [b""])

    async def release(self, names: Names, *, owner: str) -> None:
        """See AnswerStore."""
        await self._end(names, Stage.ABSENT, owner, "", 0, [b""])

    async def read(self, names: Names, *, first_part: int) -> Progress:
        """See AnswerStore."""
        async with self._asking():
            stage, owner, head, *sealed = await self._read(keys=_keys(names), args=(first_part, PARTS_A_READ))
        try:
            parts = tuple(
                zlib.decompress(self._sealer.open(part, aad=_aad(names, str(first_part + offset))))
                for offset, part in enumerate(cast("list[bytes]", sealed))
            )
            opened = self._opened_head(names, head) if head else None
        except (CodedError, zlib.error, msgspec.DecodeError) as error:
            # Somebody else wrote there. It is no fault of the client's.
            raise CodedError(ErrorCode.INTERNAL, private=f"a kept answer does not open: {error!r}") from error
        return Progress(Stage(stage.decode()), owner.decode(), opened, parts, first_part + len(parts))

    async def spend(self, scope: str, byte_count: int) -> bool:
        """See AnswerStore. Counted in windows of the answers' life, each caller's from its first answer on."""
        name = f"idempotency:bytes:{hashlib.sha256(scope.encode()).hexdigest()[:40]}"
        async with self._asking(), self._redis.pipeline(transaction=False) as pipeline:
            # Two commands that Redis 6 knows too, whose `PEXPIRE` takes no condition.
            pipeline.set(name, 0, px=self._keep_ms, nx=True)
            pipeline.incrby(name, byte_count)
            _, used = await pipeline.execute()
        return int(used) <= self._limits.max_bytes_a_caller

    async def _end(
        self, names: Names, stage: Stage, owner: str, request_id: str, written: int, last: Sequence[bytes]
    ) -> bool:
        arguments = (owner, stage.value, self._keep_ms, names.fingerprint, request_id, written, *last)
        async with self._asking():
            return int(await self._finish(keys=_keys(names), args=arguments)) == 1

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """One call: within its time, and not at all while Redis is known to be away. Raises UNAVAILABLE."""
        if self.away:
            raise CodedError(ErrorCode.UNAVAILABLE, private="redis failed a moment ago")
        try:
            async with asyncio.timeout(self._limits.budget_s):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            self._away_until = self._clock.monotonic() + _AWAY_S
            raise CodedError(ErrorCode.UNAVAILABLE, private=f"redis: {error!r}") from error

    def _script(self, name: str) -> AsyncScript:
        source = files("crosslogic_gateway.idempotency").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
        return self._redis.register_script(source)

    async def _sealed(self, names: Names, written: int, parts: Sequence[bytes]) -> list[bytes]:
        sealed: list[bytes] = []
        for block in _blocks(parts):
            if sealed:
                # Others have their turn between two blocks of a large answer.
                await asyncio.sleep(0)
            sealed.append(self._sealer.seal(zlib.compress(block, 1), aad=_aad(names, str(written + len(sealed)))))
        return sealed

    def _sealed_head(self, names: Names, head: Head) -> bytes:
        return self._sealer.seal(_encode((head.status, head.headers)), aad=_aad(names, "head"))

    def _opened_head(self, names: Names, sealed: bytes) -> Head:
        opened = self._sealer.open(sealed, aad=_aad(names, "head"))
        status, headers = msgspec.json.decode(opened, type=tuple[int, tuple[tuple[str, str], ...]])
        return Head(status, headers)


def _keys(names: Names) -> list[str]:
    # The braces keep both on one node of a cluster.
    return [f"idempotency:{{{names.entry}}}", f"idempotency:{{{names.entry}}}:parts"]


def _aad(names: Names, place: str) -> bytes:
    """What a sealed part is bound to: parts moved to another place or another answer do not open."""
    return f"{names.entry}:{place}".encode()


def block_count(parts: Sequence[bytes]) -> int:
    """How many parts in Redis these bytes become."""
    return sum(1 for _ in _blocks(parts))


def _blocks(parts: Sequence[bytes]) -> Iterator[bytes]:
    whole = b"".join(parts)
    for start in range(0, len(whole), BLOCK_BYTES):
        yield whole[start : start + BLOCK_BYTES]
