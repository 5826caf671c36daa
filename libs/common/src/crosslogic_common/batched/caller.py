"""Calls with one answer each over a batched stream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Generic, TypeVar

from crosslogic_common.batched.backoff import Backoff
from crosslogic_common.batched.deadlines import DeadlineSweeper
from crosslogic_common.batched.link import BatchLink, BidiStream
from crosslogic_common.errors import CodedError, ErrorCode

Req = TypeVar("Req")
Res = TypeVar("Res")
Out = TypeVar("Out")
In = TypeVar("In")


class BatchedCaller(Generic[Req, Res, Out, In]):
    """Makes calls that gather on one stream. `async with caller.running():` keeps the stream open."""

    def __init__(
        self,
        *,
        name: str,
        open_stream: Callable[[], BidiStream[Out, In]],
        encode: Callable[[list[tuple[int, Req]]], Out],
        decode: Callable[[In], Iterable[tuple[int, Res | CodedError]]],
        backoff: Backoff | None = None,
        max_in_flight: int = 4096,
        max_batch: int = 512,
    ) -> None:
        """`encode` makes one message of (call id, request) pairs; `decode` yields (call id, answer or error) pairs.

        At most `max_in_flight` calls at a time.
        """
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._decode = decode
        self._max_in_flight = max_in_flight
        self._pending: dict[int, asyncio.Future[Res]] = {}
        self._next_id = 1
        self._deadlines: DeadlineSweeper[int] = DeadlineSweeper(expired=self._expire)
        self._link: BatchLink[tuple[int, Req], Out, In] = BatchLink(
            name=name,
            open_stream=open_stream,
            encode=encode,
            on_message=self._on_message,
            on_broken=self._on_broken,
            backoff=backoff,
            max_batch=max_batch,
            max_queued=max_in_flight,
        )

    @property
    def in_flight(self) -> int:
        """Calls that wait for their answer."""
        return len(self._pending)

    @property
    def connected(self) -> asyncio.Event:
        """Set while the stream is open."""
        return self._link.connected

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the stream open for as long as the block lasts; calls still in flight at its end fail."""
        async with self._link.running():
            try:
                yield
            finally:
                self._on_broken(CodedError(ErrorCode.UNAVAILABLE, private=f"{self._name} is closing"))
                self._deadlines.close()

    async def call(self, request: Req, *, timeout_s: float) -> Res:
        """Sends `request` and returns its answer.

        Raises the answer's own error; UNAVAILABLE when the stream is known to be down or breaks with the call in
        flight (the peer may or may not have acted on it); TIMEOUT after `timeout_s`; OVERLOADED beyond
        `max_in_flight` calls. Before the first attempt to connect has failed a call waits for the connection.
        """
        down = self._link.down
        if down is not None:
            raise CodedError(ErrorCode.UNAVAILABLE, private=f"{self._name}: {down.private or down.public}")
        pending = self._pending
        if len(pending) >= self._max_in_flight:
            raise CodedError(ErrorCode.OVERLOADED, private=f"{self._name}: {len(pending)} calls in flight")
        call_id = self._next_id
        self._next_id = call_id + 1
        future: asyncio.Future[Res] = self._loop.create_future()
        pending[call_id] = future
        try:
            self._link.send((call_id, request))
            self._deadlines.add(call_id, timeout_s)
            return await future
        finally:
            pending.pop(call_id, None)

    def tell(self, request: Req) -> None:
        """Sends `request` as call 0, which has no answer. Dropped while the stream is down or too much waits."""
        if self._link.down is None:
            with contextlib.suppress(CodedError):
                self._link.send((0, request))

    def _on_message(self, message: In) -> None:
        pending = self._pending
        for call_id, answer in self._decode(message):
            future = pending.pop(call_id, None)
            if future is None or future.done():
                continue
            if isinstance(answer, CodedError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _on_broken(self, error: CodedError) -> None:
        broken, self._pending = self._pending, {}
        for future in broken.values():
            if not future.done():
                future.set_exception(
                    CodedError(ErrorCode.UNAVAILABLE, private=f"{self._name}: {error.private or error.public}")
                )

    def _expire(self, call_id: int) -> None:
        future = self._pending.pop(call_id, None)
        if future is not None and not future.done():
            future.set_exception(CodedError(ErrorCode.TIMEOUT, private=f"{self._name}: no answer in time"))
