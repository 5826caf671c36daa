"""UUIDv7 (RFC 9562): ids that sort by the time they were made."""

import os
import time
import uuid
from collections.abc import Callable

_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62
_RANDOM_62 = (1 << 62) - 1
_POOL_BYTES = 4096


class Uuid7Source:
    """Makes UUIDv7s, each greater than the one before, also when the clock stands still or steps back."""

    def __init__(
        self,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`now_ns` is nanoseconds since the epoch."""
        self._now_ns = now_ns
        self._random_bytes = random_bytes
        self._last = 0
        self._pool = b""
        self._pool_at = 0

    def next(self) -> uuid.UUID:
        """A new id. Its sub-millisecond part is the clock's (12 bits); 62 bits are random."""
        return uuid.UUID(int=self._next_int())

    def next_text(self) -> str:
        """The same as `str(next())`, in a third of the time."""
        digits = f"{self._next_int():032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def _next_int(self) -> int:
        # 60 bits: milliseconds, then the fraction of the millisecond in 1/4096.
        now_ns = self._now_ns()
        millis, rest_ns = divmod(now_ns, 1_000_000)
        stamp = millis << 12 | (rest_ns << 12) // 1_000_000
        if stamp <= self._last:
            stamp = self._last + 1
        self._last = stamp
        return (stamp >> 12) << 80 | _VERSION | (stamp & 0xFFF) << 64 | _VARIANT | self._random_62()

    def _random_62(self) -> int:
        """62 random bits. The system is asked for many at a time: each time costs a system call."""
        at = self._pool_at
        if at >= len(self._pool):
            self._pool = self._random_bytes(_POOL_BYTES)
            at = 0
        self._pool_at = at + 8
        return int.from_bytes(self._pool[at : at + 8], "big") & _RANDOM_62


def time_ms(id_: uuid.UUID) -> int:
    """When a UUIDv7 was made, in milliseconds since the epoch."""
    return id_.int >> 80


def floor(millis: int) -> uuid.UUID:
    """The least id that sorts at or after everything made before this millisecond: a bound for range queries."""
    return uuid.UUID(int=millis << 80)
