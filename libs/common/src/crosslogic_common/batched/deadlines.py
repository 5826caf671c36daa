"""Deadlines for many short calls at the cost of a dictionary entry each, in place of a timer each."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")


class DeadlineSweeper(Generic[Key]):
    """Tells which keys have passed their deadline, at most one tick late and never early.

    Keys whose call ended earlier need not be removed: the sweep hands them to `expired`, which ignores what it no
    longer knows. A timer runs only while deadlines are waiting.
    """

    def __init__(self, *, expired: Callable[[Key], None], tick_s: float = 0.02) -> None:
        """`expired` is called once a key, from the event loop; it must not raise."""
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._tick_s = tick_s
        self._buckets: dict[int, list[Key]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, key: Key, timeout_s: float) -> None:
        """Calls `expired(key)` `timeout_s` seconds from now, up to one tick late."""
        bucket = int((self._loop.time() + timeout_s) / self._tick_s) + 1
        keys = self._buckets.get(bucket)
        if keys is None:
            self._buckets[bucket] = [key]
            if self._timer is None:
                self._timer = self._loop.call_later(self._tick_s, self._sweep)
        else:
            keys.append(key)

    def close(self) -> None:
        """Forgets every deadline."""
        self._buckets.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now_bucket = int(self._loop.time() / self._tick_s)
        for bucket in sorted(due for due in self._buckets if due <= now_bucket):
            for key in self._buckets.pop(bucket):
                self._expired(key)
        self._timer = self._loop.call_later(self._tick_s, self._sweep) if self._buckets else None
