"""Tells whoever watches a job that it has changed: by the database's notices, so that any replica may work on it."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator

from crosslogic_common.errors import CodedError, ErrorCode

MAX_WATCHERS = 1_024


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
