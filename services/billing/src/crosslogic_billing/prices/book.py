"""The price book as gateways see it: kept in memory, pushed to each of them when it changes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from crosslogic_billing.prices import policy
from crosslogic_billing.prices.domain import Market, NewPrices, PriceVersion
from crosslogic_billing.prices.ports import PriceStore
from crosslogic_common.batched import Backoff
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger

MAX_VERSIONS = 20_000
MAX_WATCHERS = 1_024
_KEPT_AFTER_END = timedelta(days=1)
"""A gateway whose clock is wrong, or that resumes a request, still finds the version of then."""


@dataclass(frozen=True, slots=True)
class Book:
    """Everything that prices requests now, and soon."""

    versions: tuple[PriceVersion, ...]
    markets: tuple[Market, ...]


class PriceBook:
    """Prices: made, listed, and followed."""

    def __init__(self, *, store: PriceStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._book: Book | None = None
        self._version = 0
        self._changed = asyncio.Condition()
        self._watchers = 0
        self._closed = False
        self._log = get_logger(__name__)

    async def add(self, asked: NewPrices) -> list[PriceVersion]:
        """New versions. Raises INVALID_ARGUMENT, CONFLICT."""
        return await self._store.add(policy.check_new(asked, self._clock.now()))

    async def page(self, model: str, after: str, limit: int) -> list[PriceVersion]:
        """Versions, by id."""
        return await self._store.page(model, after, limit)

    @property
    def known(self) -> Book | None:
        """The book as last read; None: never yet."""
        return self._book

    async def watch(self) -> AsyncGenerator[Book, None]:
        """The book, now and after each change. Raises OVERLOADED beyond the most watchers, UNAVAILABLE once closed."""
        if self._watchers >= MAX_WATCHERS:
            raise CodedError(ErrorCode.OVERLOADED, private=f"{MAX_WATCHERS} watch prices already")
        self._watchers += 1
        seen = 0
        try:
            while True:
                async with self._changed:
                    while not self._closed and (self._book is None or self._version == seen):
                        await self._changed.wait()
                    if self._closed or self._book is None:
                        raise CodedError(ErrorCode.UNAVAILABLE, "The service is stopping: connect again.")
                    seen, book = self._version, self._book
                yield book
        finally:
            self._watchers -= 1

    async def close(self) -> None:
        """Ends all watches and takes no new ones: a server that stops need not wait for them."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def follow(self, announced: AsyncIterator[str | None]) -> None:
        """Reads the book when it may have changed: at each announcement."""
        async for _ in announced:
            backoff = Backoff(cap_s=2.0)
            while not await self.reload():
                await asyncio.sleep(backoff.next_s())

    async def reload(self) -> bool:
        """Reads the book and tells watchers of it. False: the database is away."""
        try:
            versions = await self._store.book(self._clock.now() - _KEPT_AFTER_END, MAX_VERSIONS + 1)
            markets = await self._store.markets()
        except CodedError as error:
            self._log.warning("price book not read, trying again", reason=error.private or error.public)
            return False
        if len(versions) > MAX_VERSIONS:
            # Half a book would price what is missing by the catalogue: the last whole one stays.
            self._log.error("the price book is too large", versions=len(versions), largest=MAX_VERSIONS)
            return True
        async with self._changed:
            self._book = Book(tuple(versions), tuple(markets))
            self._version += 1
            self._changed.notify_all()
        return True

    @contextlib.asynccontextmanager
    async def following(self, announced: AsyncIterator[str | None]) -> AsyncIterator[None]:
        """Follows changes of every replica for as long as the block lasts."""
        task = asyncio.create_task(self.follow(announced), name="prices")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
