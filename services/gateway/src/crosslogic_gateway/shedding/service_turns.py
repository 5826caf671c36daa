"""Whose turn it is at the limits of the whole service: the same order and deadlines as at a lane's gate."""

import asyncio
from typing import NamedTuple, Protocol

from crosslogic_gateway.admission.refusals import RefusedError, overloaded
from crosslogic_gateway.shedding.domain import Rank
from crosslogic_gateway.shedding.queue import LaneQueue, Waiter

LOOK_S = 0.1
"""How often deadlines are looked at while nothing is there to hand out."""


class Turn(NamedTuple):
    """How a request waits."""

    rank: Rank = Rank.NORMAL
    timeout_s: float = 0.0
    """0: it does not."""


class Stock(Protocol):
    """What there is of the service's limits at this worker."""

    async def take(self, tokens: int) -> int:
        """Takes one request with so many tokens; returns when its batch was taken. Raises RefusedError OVERLOADED."""

    def put_back(self, tokens: int) -> None:
        """One that was taken is not needed."""

    def seconds_for(self, tokens: float) -> float:
        """How long it takes at this worker until one request more with so many tokens is allowed."""


class ServiceTurns:
    """The queue before a `Stock`. One a worker."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        self._loop = asyncio.get_running_loop()
        self._queue = LaneQueue()
        # Requests go on one after the other, each when the limits have room for it.
        self._queue.limit = self._queue.in_flight = 1
        self._turns: dict[Waiter, asyncio.Future[int]] = {}
        self._closed_until = 0.0
        self._pump: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._turns)

    async def take(self, org_id: str, tokens: int, turn: Turn) -> int:
        """See `Stock.take`; waits for the request's turn. Raises OVERLOADED when it would come too late, or did."""
        refused: RefusedError | None = None
        if not self._turns:
            try:
                return await self._stock.take(tokens)
            except RefusedError as error:
                refused = error
                self._closed(error)
        if not turn.timeout_s:
            raise refused or self._refusal()
        return await self._wait(Waiter(org_id, turn.rank, max(tokens, 1), self._loop.time() + turn.timeout_s))

    def close(self) -> None:
        """Nobody waits any more."""
        if self._pump is not None:
            self._pump.cancel()

    async def _wait(self, waiter: Waiter) -> int:
        answer: asyncio.Future[int] = self._loop.create_future()
        self._turns[waiter] = answer
        self._queue.took(self._stock.seconds_for(waiter.cost))
        self._refuse(self._queue.enter(waiter, self._open_at()))
        if self._turns and self._pump is None:
            self._pump = asyncio.create_task(self._serve(), name="service turns")
        try:
            return await answer
        except BaseException:
            if self._turns.pop(waiter, None) is not None:
                self._queue.leave(waiter)
            elif answer.done() and not answer.cancelled() and answer.exception() is None:
                # Its turn came in the moment in which its client left.
                self._stock.put_back(round(waiter.cost))
            raise

    async def _serve(self) -> None:
        try:
            while self._turns:
                self._refuse(self._queue.hopeless(self._open_at()))
                now = self._loop.time()
                first = next(self._queue.waiters(), None)
                if first is None or now < self._closed_until:
                    await asyncio.sleep(min(LOOK_S, max(0.0, self._closed_until - now)))
                    continue
                try:
                    taken_at = await self._stock.take(round(first.cost))
                except RefusedError as error:
                    self._closed(error)
                    continue
                answer = self._turns.pop(first, None)
                if answer is None or answer.done():
                    self._stock.put_back(round(first.cost))
                    continue
                self._queue.serve(first)
                answer.set_result(taken_at)
        finally:
            self._pump = None

    def _closed(self, error: RefusedError) -> None:
        self._closed_until = self._loop.time() + (error.retry_after_s or LOOK_S)

    def _open_at(self) -> float:
        return max(self._loop.time(), self._closed_until)

    def _refuse(self, refused: list[Waiter]) -> None:
        for waiter in refused:
            answer = self._turns.pop(waiter, None)
            if answer is not None and not answer.done():
                answer.set_exception(self._refusal())

    def _refusal(self) -> RefusedError:
        wait_s = self._open_at() - self._loop.time() + self._queue.wait_s(len(self._queue))
        return overloaded(max(1.0, wait_s))
