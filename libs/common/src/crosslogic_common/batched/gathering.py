"""The write side: items gather while a write is in flight, and the next write carries them all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from crosslogic_common.errors import CodedError, ErrorCode

Item = TypeVar("Item")


class GatheringWriter(Generic[Item]):
    """Gathers items for one stream. One task runs `run()`; any number of tasks of the same loop call `send()`."""

    def __init__(
        self,
        *,
        write: Callable[[list[Item]], Awaitable[None]],
        max_batch: int = 512,
        max_queued: int = 8192,
    ) -> None:
        """`write` sends one batch and returns when the next may follow; at most `max_batch` items a batch.

        `send` refuses once `max_queued` items wait, so that a stalled peer costs bounded memory.
        """
        self._write = write
        self._max_batch = max_batch
        self._max_queued = max_queued
        self._queue: list[Item] = []
        self._idle: asyncio.Future[None] | None = None
        self._writing = False
        self._flushed: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        """Items that wait to be written."""
        return len(self._queue)

    def send(self, item: Item) -> None:
        """Queues `item`. Raises OVERLOADED when the queue is full: nothing was queued."""
        queue = self._queue
        if len(queue) >= self._max_queued:
            raise CodedError(ErrorCode.OVERLOADED, private=f"{len(queue)} items wait to be written")
        queue.append(item)
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def take_all(self) -> list[Item]:
        """Removes and returns what waits to be written."""
        taken, self._queue = self._queue, []
        return taken

    async def flush(self) -> None:
        """Returns once everything queued so far was handed to `write` and `write` returned."""
        if not self._queue and not self._writing:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushed.append(done)
        await done

    async def run(self) -> None:
        """Writes until cancelled. Raises what `write` raises; the batch it was given counts as not delivered."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                if not self._queue:
                    self._release_flushers()
                    self._idle = loop.create_future()
                    await self._idle
                    self._idle = None
                await self._write_gathered()
        finally:
            self._idle = None
            self._release_flushers()

    async def _write_gathered(self) -> None:
        if len(self._queue) <= self._max_batch:
            batch, self._queue = self._queue, []
        else:
            batch, self._queue = self._queue[: self._max_batch], self._queue[self._max_batch :]
        self._writing = True
        try:
            await self._write(batch)
        finally:
            self._writing = False

    def _release_flushers(self) -> None:
        for done in self._flushed:
            if not done.done():
                done.set_result(None)
        self._flushed.clear()
