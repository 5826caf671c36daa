"""Revocations on their way to the gateways: from PostgreSQL's NOTIFY, through Redis' generation, to each watcher.

A gateway that is told to forget a key asks Redis next, so Redis is told first. When it does not answer in time, the
gateways are told all the same, and told again once Redis knows (shared_cache.py).
"""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import cast

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_identity.domain import Revocation, Scope
from crosslogic_identity.metrics import IdentityMetrics

MAX_QUEUED = 1_000
MAX_WATCHERS = 1_024
MAX_CUTS = 256
CUTS_KEPT_S = 600.0
"""How long a gateway may be away and still hear that streams were to be cut."""
_SCOPES = frozenset({"org", "environment", "api_key", "plan"})
_CUT = "cut_"


class Watcher:
    """One gateway's queue. Bounded: one that falls behind is told to forget everything instead."""

    def __init__(self, max_queued: int, cuts: Iterable[Revocation] = ()) -> None:
        self._max_queued = max_queued
        # The first thing a watcher hears: what it knew before may be wrong, and what it may not have heard.
        self._queue: deque[Revocation | None] = deque([None, *cuts])
        self._filled = asyncio.Event()
        self._closed = False

    async def next(self) -> Revocation | None:
        """The next revocation. None: forget everything; also the first answer. Raises UNAVAILABLE once closed."""
        while not self._queue:
            if self._closed:
                raise CodedError(ErrorCode.UNAVAILABLE, "The service is stopping: connect again.")
            self._filled.clear()
            await self._filled.wait()
        return self._queue.popleft()

    def put(self, revocation: Revocation | None) -> None:
        """Queues a revocation. One that makes everything be forgotten replaces all that wait, but for cut streams."""
        if revocation is None or len(self._queue) >= self._max_queued:
            cuts = [one for one in (*self._queue, revocation) if one is not None and one.cut_streams]
            self._queue = deque([None, *cuts[-self._max_queued // 2 :]])
        else:
            self._queue.append(revocation)
        self._filled.set()

    def close(self) -> None:
        """Ends it, once what is queued was read."""
        self._closed = True
        self._filled.set()


class RevocationHub:
    """Hears every replica's revocations and passes them to this replica's watchers."""

    def __init__(
        self,
        *,
        before_push: Callable[[], Awaitable[None]],
        metrics: IdentityMetrics,
        max_queued: int = MAX_QUEUED,
        max_watchers: int = MAX_WATCHERS,
    ) -> None:
        """`before_push` makes the shared cache forget; it must end in bounded time and never raise."""
        self._before_push = before_push
        self._metrics = metrics
        self._max_queued = max_queued
        self._max_watchers = max_watchers
        self._watchers: set[Watcher] = set()
        self._cuts: OrderedDict[tuple[Scope, str], tuple[Revocation, float]] = OrderedDict()
        """Streams that were to be cut lately, and when: a gateway that was not connected is told later."""
        self._closed = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watcher]:
        """A watcher for as long as the block lasts. Raises OVERLOADED beyond the most watchers, UNAVAILABLE."""
        if self._closed:
            raise CodedError(ErrorCode.UNAVAILABLE, "The service is stopping: connect again.")
        if len(self._watchers) >= self._max_watchers:
            raise CodedError(ErrorCode.OVERLOADED, private=f"{self._max_watchers} watchers already")
        watcher = Watcher(self._max_queued, self._recent_cuts())
        self._watchers.add(watcher)
        self._metrics.watchers(len(self._watchers))
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            self._metrics.watchers(len(self._watchers))

    async def run(self, payloads: AsyncIterator[str | None]) -> None:
        """Passes on what is announced. None: what was announced before is not known, so everything is forgotten."""
        async for payload in payloads:
            revocation = revocation_of(payload or "")
            await self._before_push()
            self._push(revocation)

    def push_resync(self) -> None:
        """Makes every gateway forget everything."""
        self._push(None)

    def close(self) -> None:
        """Ends all watches and takes no new ones: a server that stops need not wait for them."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()

    def _recent_cuts(self) -> list[Revocation]:
        now = asyncio.get_running_loop().time()
        return [revocation for revocation, at in self._cuts.values() if now - at <= CUTS_KEPT_S]

    def _remember(self, revocation: Revocation) -> None:
        # What comes later about the same thing may have lifted the suspension.
        self._cuts.pop((revocation.scope, revocation.id), None)
        if revocation.cut_streams:
            self._cuts[revocation.scope, revocation.id] = (revocation, asyncio.get_running_loop().time())
            if len(self._cuts) > MAX_CUTS:
                self._cuts.popitem(last=False)

    def _push(self, revocation: Revocation | None) -> None:
        if revocation is not None:
            self._remember(revocation)
        for watcher in self._watchers:
            watcher.put(revocation)
        self._metrics.pushed("resync" if revocation is None else revocation.scope)


def revocation_of(payload: str) -> Revocation | None:
    """What an announcement is about. One that a newer version made and this one does not know: everything."""
    word, _, id_ = payload.partition(":")
    scope = word.removeprefix(_CUT)
    return Revocation(cast("Scope", scope), id_, word != scope) if scope in _SCOPES and id_ else None
