"""Revocations on their way to the gateways: from PostgreSQL's NOTIFY, through Redis' generation, to each watcher."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import cast

from crosslogic_common.postgres import notifications
from crosslogic_identity.domain import Revocation, Scope
from crosslogic_identity.store import CHANNEL

MAX_QUEUED = 1_000
_SCOPES = frozenset({"org", "environment", "api_key"})


class Watcher:
    """One gateway's queue. Bounded: one that falls behind is told to forget everything instead."""

    def __init__(self) -> None:
        self._queue: deque[Revocation | None] = deque([None])
        self._filled = asyncio.Event()
        self._filled.set()

    async def next(self) -> Revocation | None:
        """The next revocation. None: forget everything; also the first answer."""
        while not self._queue:
            self._filled.clear()
            await self._filled.wait()
        return self._queue.popleft()

    def put(self, revocation: Revocation | None) -> None:
        """Queues a revocation."""
        if revocation is None or len(self._queue) >= MAX_QUEUED:
            self._queue.clear()
            revocation = None
        self._queue.append(revocation)
        self._filled.set()


class RevocationHub:
    """Hears every replica's revocations and passes them to this replica's watchers."""

    def __init__(self, *, dsn: str, before_push: Callable[[], Awaitable[None]]) -> None:
        """`before_push` makes the shared cache forget; it must end in bounded time and never raise."""
        self._dsn = dsn
        self._before_push = before_push
        self._watchers: set[Watcher] = set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watcher]:
        """A watcher for as long as the block lasts."""
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listens for as long as the block lasts."""
        task = asyncio.create_task(self._run(), name="revocations")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        async for payload in notifications(self._dsn, schema="identity", channel=CHANNEL):
            scope, _, id_ = (payload or "").partition(":")
            await self._push(Revocation(cast("Scope", scope), id_) if scope in _SCOPES else None)

    async def _push(self, revocation: Revocation | None) -> None:
        await self._before_push()
        for watcher in self._watchers:
            watcher.put(revocation)
