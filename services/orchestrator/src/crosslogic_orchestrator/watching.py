"""Tells whoever watches a job that it has changed: by the database's notices, so that any replica may work on it."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_orchestrator.domain import Job

MAX_WATCHERS = 1_024
_READS_AT_ONCE = 2


class SharedReads:
    """One look at a job for all who wait for one: a thousand watchers take no connection that launches need."""

    def __init__(self, read: Callable[[str], Awaitable[Job]]) -> None:
        self._read = read
        self._room = asyncio.Semaphore(_READS_AT_ONCE)
        self._waiting: dict[str, asyncio.Task[Job]] = {}
        self._begun: set[asyncio.Task[Job]] = set()

    async def job(self, job_id: str) -> Job:
        """The job as it is now or a moment later. Raises what reading it does."""
        task = self._waiting.get(job_id)
        if task is None:
            task = self._waiting[job_id] = asyncio.create_task(self._look(job_id), name="read a watched job")
            self._begun.add(task)
            task.add_done_callback(self._done)
        # Who leaves takes the look from nobody else.
        return await asyncio.shield(task)

    async def _look(self, job_id: str) -> Job:
        async with self._room:
            # Who comes from here on may have heard of a change that this look does not see.
            del self._waiting[job_id]
            return await self._read(job_id)

    def _done(self, task: "asyncio.Task[Job]") -> None:
        self._begun.discard(task)
        if not task.cancelled():
            # Everybody who asked may have left.
            task.exception()


class JobChanges:
    """Passes changes on to this replica's watchers, and wakes its workers."""

    def __init__(self, *, wake: asyncio.Event) -> None:
        """`wake` is set with each change."""
        self._wake = wake
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._closed = False

    async def follow(self, changes: AsyncIterator[str | None]) -> None:
        """Follows the notices for ever."""
        async for job_id in changes:
            self._wake.set()
            known = self._watchers.get(job_id, set()) if job_id is not None else set().union(*self._watchers.values())
            for event in known:
                event.set()

    @property
    def closed(self) -> bool:
        """Nothing more is told."""
        return self._closed

    def close(self) -> None:
        """Lets every watcher go."""
        self._closed = True
        for events in self._watchers.values():
            for event in events:
                event.set()

    @contextlib.contextmanager
    def watched(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job may have changed. Raises OVERLOADED, UNAVAILABLE while stopping."""
        if self._closed:
            raise CodedError(ErrorCode.UNAVAILABLE, "The service is stopping: ask again.")
        if sum(map(len, self._watchers.values())) >= MAX_WATCHERS:
            raise CodedError(ErrorCode.OVERLOADED, "Too many jobs are watched.")
        event = asyncio.Event()
        self._watchers[job_id].add(event)
        try:
            yield event
        finally:
            self._watchers[job_id].discard(event)
            if not self._watchers[job_id]:
                del self._watchers[job_id]
