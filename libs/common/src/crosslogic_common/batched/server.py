"""The server side of a batched stream of calls with one answer each."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar, cast

from crosslogic_common.batched.gathering import GatheringWriter
from crosslogic_common.errors import CodedError, ErrorCode

Req = TypeVar("Req")
Res = TypeVar("Res")
In = TypeVar("In")
Out = TypeVar("Out")

SyncBatchHandler: TypeAlias = Callable[[Sequence[Req]], Sequence[Res | CodedError]]
AsyncBatchHandler: TypeAlias = Callable[[Sequence[Req]], Awaitable[Sequence[Res | CodedError]]]


async def serve_batches(
    requests: AsyncIterator[In],
    write: Callable[[Out], Awaitable[None]],
    *,
    calls: Callable[[In], Sequence[tuple[int, Req]]],
    handle: SyncBatchHandler[Req, Res] | AsyncBatchHandler[Req, Res],
    encode: Callable[[Sequence[tuple[int, Res | CodedError]]], Out],
    stopping: asyncio.Event | None = None,
    max_in_flight: int = 4096,
) -> None:
    """Answers every call of a stream until the client ends it or `stopping` is set.

    A sync `handle` answers each message before the next is read: for decisions from memory. An async `handle` works on
    up to `max_in_flight` calls at a time and may answer messages in any order; beyond that the stream is not read,
    which is the client's back-pressure. `handle` returns one answer a request, in order; a CodedError that it raises is
    the answer of every call of its message. Once `stopping` is set, what was read is answered and the stream ends.
    """
    interruptible = None if stopping is None else _UntilStopping(requests, stopping)
    messages = interruptible or requests
    try:
        if inspect.iscoroutinefunction(handle):
            await _serve_async(
                messages,
                write,
                calls=calls,
                handle=cast("AsyncBatchHandler[Req, Res]", handle),
                encode=encode,
                max_in_flight=max_in_flight,
            )
            return
        answer = cast("SyncBatchHandler[Req, Res]", handle)
        async for message in messages:
            batch = calls(message)
            if not batch:
                continue
            try:
                answers = answer([request for _, request in batch])
            except CodedError as error:
                answers = [error] * len(batch)
            await write(encode([(call_id, result) for (call_id, _), result in zip(batch, answers, strict=True)]))
    finally:
        if interruptible is not None:
            interruptible.close()


async def _serve_async(
    messages: AsyncIterator[In],
    write: Callable[[Out], Awaitable[None]],
    *,
    calls: Callable[[In], Sequence[tuple[int, Req]]],
    handle: AsyncBatchHandler[Req, Res],
    encode: Callable[[Sequence[tuple[int, Res | CodedError]]], Out],
    max_in_flight: int,
) -> None:
    room = asyncio.Condition()
    in_flight = 0

    async def write_answers(answers: list[tuple[int, Res | CodedError]]) -> None:
        await write(encode(answers))

    writer: GatheringWriter[tuple[int, Res | CodedError]] = GatheringWriter(
        write=write_answers, max_queued=2 * max_in_flight
    )

    async def work(batch: Sequence[tuple[int, Req]]) -> None:
        nonlocal in_flight
        try:
            answers = await handle([request for _, request in batch])
        except CodedError as error:
            answers = [error] * len(batch)
        for (call_id, _), result in zip(batch, answers, strict=True):
            writer.send((call_id, result))
        async with room:
            in_flight -= len(batch)
            room.notify_all()

    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(writer.run())
        async for message in messages:
            batch = calls(message)
            size = len(batch)
            if size > max_in_flight:
                raise CodedError(ErrorCode.INVALID_ARGUMENT, f"at most {max_in_flight} calls a message")
            async with room:
                while in_flight + size > max_in_flight:
                    await room.wait()
                in_flight += size
            tasks.create_task(work(batch))
        async with room:
            while in_flight:
                await room.wait()
        await writer.flush()
        writing.cancel()


class _UntilStopping(Generic[In]):
    """The messages of a stream until it ends or the server stops.

    One watcher for the whole stream, not a pair of tasks a message. It interrupts the reading task only while that task
    waits for a message, so that an answer being written is never cut.
    """

    def __init__(self, requests: AsyncIterator[In], stopping: asyncio.Event) -> None:
        self._requests = requests
        self._stopping = stopping
        self._reader: asyncio.Task[object] | None = None
        self._watcher = asyncio.create_task(self._interrupt_when_stopping())

    def __aiter__(self) -> AsyncIterator[In]:
        return self

    async def __anext__(self) -> In:
        if self._stopping.is_set():
            raise StopAsyncIteration
        self._reader = asyncio.current_task()
        try:
            return await self._requests.__anext__()
        except asyncio.CancelledError:
            if self._stopping.is_set() and self._reader is not None and self._reader.uncancel() == 0:
                raise StopAsyncIteration from None
            raise
        finally:
            self._reader = None

    def close(self) -> None:
        """The stream ended: there is nothing left to interrupt."""
        self._watcher.cancel()

    async def _interrupt_when_stopping(self) -> None:
        await self._stopping.wait()
        if self._reader is not None:
            self._reader.cancel()
