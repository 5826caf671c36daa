"""UUIDv7 (RFC 9562): ids that sort by the time they were made."""

import os
import time
import uuid
from collections.abc import Callable

_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62
_RANDOM_62 = (1 << 62) - 1


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

    def next(self) -> uuid.UUID:
        """A new id. Its sub-millisecond part is the clock's (12 bits); 62 bits are random."""
        # 60 bits: milliseconds, then the fraction of the millisecond in 1/4096.
        now_ns = self._now_ns()
        millis, rest_ns = divmod(now_ns, 1_000_000)
        stamp = millis << 12 | (rest_ns << 12) // 1_000_000
        if stamp <= self._last:
            stamp = self._last + 1
        self._last = stamp
        random = int.from_bytes(self._random_bytes(8), "big") & _RANDOM_62
        return uuid.UUID(int=(stamp >> 12) << 80 | _VERSION | (stamp & 0xFFF) << 64 | _VARIANT | random)


def time_ms(id_: uuid.UUID) -> int:
    """When a UUIDv7 was made, in milliseconds since the epoch."""
    return id_.int >> 80


def floor(millis: int) -> uuid.UUID:
    """The least id that sorts at or after everything made before this millisecond: a bound for range queries."""
    return uuid.UUID(int=millis << 80)
