"""Group commit: what gathers while a commit is under way is the next one. No timer, no added delay when idle."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prometheus_client import Counter, Histogram

from crosslogic_accountant.ports import BatchSink
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger

Item = TypeVar("Item")
Done = TypeVar("Done")


@dataclass(slots=True)
class _Ticket(Generic[Item, Done]):
    """One submission. A commit may take a part of it; it is answered once all of it is durable."""

    items: Sequence[Item]
    answered: "asyncio.Future[list[Done | CodedError]]"
    taken: int = 0
    results: "list[Done | CodedError | None]" = field(default_factory=list)
    missing: int = 0


class GroupCommit(Generic[Item, Done]):
    """Takes items from any number of tasks and makes them durable in batches, one batch at a time for each sink.

    While the database is away everything waits: batches are tried again until they succeed, and submitters beyond
    `max_queued` items wait at the door, which stops their streams from being read.
    """

    def __init__(
        self,
        *,
        name: str,
        sinks: Sequence[BatchSink[Item, Done]],
        batch_size: Histogram,
        commit_seconds: Histogram,
        failures: Counter,
        max_batch: int = 4096,
        max_queued: int = 32_768,
        drain_s: float = 10.0,
    ) -> None:
        """On the way out, what is queued has `drain_s` seconds to become durable; the rest fails with UNAVAILABLE."""
        self._name = name
        self._sinks = sinks
        self._batch_size = batch_size.labels(name)
        self._commit_seconds = commit_seconds.labels(name)
        self._failures = failures.labels(name)
        self._max_batch = max_batch
        self._max_queued = max_queued
        self._drain_s = drain_s
        self._queue: deque[_Ticket[Item, Done]] = deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = False
        self._log = get_logger(__name__)

    @property
    def queued(self) -> int:
        """Items that wait for a commit to take them."""
        return self._queued

    async def submit(self, items: Sequence[Item]) -> list[Done | CodedError]:
        """Returns once every item is durable or refused for good, with what became of each, in order.

        A submitter that goes away does not take its items with it: they are stored all the same.
        Raises UNAVAILABLE when the process ends first.
        """
        if not items:
            return []
        while self._queued >= self._max_queued and not self._closing:
            self._room.clear()
            await self._room.wait()
        if self._closing:
            raise self._ended()
        ticket: _Ticket[Item, Done] = _Ticket(
            items,
            asyncio.get_running_loop().create_future(),
            results=[None] * len(items),
            missing=len(items),
        )
        self._queue.append(ticket)
        self._queued += len(items)
        self._arrived.set()
        return await ticket.answered

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Commits for as long as the block lasts, then drains."""
        workers = [
            asyncio.create_task(self._work(sink), name=f"{self._name} writer {number}")
            for number, sink in enumerate(self._sinks)
        ]
        try:
            yield
        finally:
            self._closing = True
            self._arrived.set()
            self._room.set()
            _, stuck = await asyncio.wait(workers, timeout=self._drain_s)
            for worker in stuck:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            for ticket in self._queue:
                _fail(ticket, self._ended())
            for sink in self._sinks:
                await sink.close()

    async def _work(self, sink: BatchSink[Item, Done]) -> None:
        while True:
            while not self._queue:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            parts, batch = self._take()
            try:
                results = await self._commit(sink, batch)
            except asyncio.CancelledError:
                for ticket, _, _ in parts:
                    _fail(ticket, self._ended())
                raise
            except Exception as error:  # noqa: BLE001  # a fault of ours: the stream breaks, its client sends all of it again
                self._log.error("a batch could not be written", writer=self._name, exc_info=error)
                for ticket, _, _ in parts:
                    _fail(ticket, CodedError(ErrorCode.INTERNAL, private=repr(error)))
                continue
            position = 0
            for ticket, start, end in parts:
                ticket.results[start:end] = results[position : position + end - start]
                position += end - start
                ticket.missing -= end - start
                if ticket.missing == 0 and not ticket.answered.done():
                    ticket.answered.set_result(ticket.results)  # type: ignore[arg-type]  # none is missing

    def _take(self) -> "tuple[list[tuple[_Ticket[Item, Done], int, int]], list[Item]]":
        """Removes up to `max_batch` items from the queue: which parts of which tickets, and the items."""
        parts: list[tuple[_Ticket[Item, Done], int, int]] = []
        batch: list[Item] = []
        while self._queue and len(batch) < self._max_batch:
            ticket = self._queue[0]
            start = ticket.taken
            end = min(len(ticket.items), start + self._max_batch - len(batch))
            batch += ticket.items[start:end]
            parts.append((ticket, start, end))
            ticket.taken = end
            if end == len(ticket.items):
                self._queue.popleft()
        self._queued -= len(batch)
        if self._queued < self._max_queued:
            self._room.set()
        return parts, batch

    async def _commit(self, sink: BatchSink[Item, Done], batch: Sequence[Item]) -> list[Done | CodedError]:
        backoff = Backoff(base_s=0.05, cap_s=2.0)
        self._batch_size.observe(len(batch))
        while True:
            try:
                with self._commit_seconds.time():
                    return await sink.commit(batch)
            except CodedError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    raise
                self._failures.inc()
                self._log.warning("a commit waits for the database", writer=self._name, reason=error.private)
            await asyncio.sleep(backoff.next_s())

    def _ended(self) -> CodedError:
        return CodedError(ErrorCode.UNAVAILABLE, private=f"{self._name}: the process is stopping")


def _fail(ticket: _Ticket[Item, Done], error: CodedError) -> None:
    if not ticket.answered.done():
        ticket.answered.set_exception(error)
