"""The client side of a batched stream: connects, gathers writes, reads, and connects again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Protocol, TypeVar, cast, runtime_checkable

import grpc
import grpc.aio

from crosslogic_common.batched.backoff import Backoff
from crosslogic_common.batched.gathering import GatheringWriter
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.logs import get_logger

Item = TypeVar("Item")
Out = TypeVar("Out")
In = TypeVar("In")
Out_contra = TypeVar("Out_contra", contravariant=True)
In_co = TypeVar("In_co", covariant=True)

HURRY_AFTER_S = 0.1
"""How soon after a failed attempt to connect another may be asked for."""


class BidiStream(Protocol[Out_contra, In_co]):
    """What is used of a grpc.aio stream-stream call."""

    async def wait_for_connection(self) -> None:
        """Returns once the server has accepted the stream."""

    async def write(self, request: Out_contra) -> None:
        """Sends one message."""

    async def read(self) -> In_co | object:
        """The next message, or grpc.aio.EOF."""

    def cancel(self) -> bool:
        """Ends the stream."""


@runtime_checkable
class DeliveringStream(Protocol[In_co]):
    """A stream that hands its messages over by itself, such as crosslogic_common.h2.H2Stream."""

    def deliver(self, on_message: Callable[[In_co], None]) -> Awaitable[None]:
        """Hands every message to `on_message`, in order; what it returns ends, or fails, with the stream."""


class BatchLink(Generic[Item, Out, In]):
    """One long-lived bidi stream, kept open with jittered backoff for as long as `run()` runs.

    What was queued or in flight when the stream breaks is the owner's to fail or repeat: the link drops its queue and
    calls `on_broken`. Messages are handed to `on_message` in order, from the event loop.
    """

    def __init__(
        self,
        *,
        name: str,
        open_stream: Callable[[], BidiStream[Out, In]],
        encode: Callable[[list[Item]], Out],
        on_message: Callable[[In], None],
        on_broken: Callable[[CodedError], None],
        backoff: Backoff | None = None,
        max_batch: int = 512,
        max_queued: int = 8192,
        connect_timeout_s: float = 5.0,
    ) -> None:
        """`on_message` and `on_broken` must not block; `on_broken` is called too when an attempt never connected."""
        self._name = name
        self._open_stream = open_stream
        self._encode = encode
        self._on_message = on_message
        self._on_broken = on_broken
        self._backoff = backoff or Backoff()
        self._max_batch = max_batch
        self._max_queued = max_queued
        self._connect_timeout_s = connect_timeout_s
        self._writer = self._new_writer(None)
        self._last_error: CodedError | None = None
        self._answered = False
        self._log = get_logger(__name__)
        self._hurry = asyncio.Event()
        self._lost_at = 0.0
        self.connected = asyncio.Event()

    @property
    def down(self) -> CodedError | None:
        """Why the peer cannot be reached right now. None while connected and before the first attempt has failed."""
        return self._last_error

    def hurry(self) -> None:
        """The peer is wanted and said to be back: connects now rather than when the wait is over."""
        if self._last_error is not None and asyncio.get_running_loop().time() - self._lost_at >= HURRY_AFTER_S:
            self._hurry.set()

    def send(self, item: Item) -> None:
        """Queues `item` for the next write. Raises OVERLOADED when too many wait."""
        self._writer.send(item)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the link in a task of its own for as long as the block lasts."""
        task = asyncio.create_task(self.run(), name=f"link {self._name}")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def run(self) -> None:
        """Connects, and connects again whenever the stream breaks, until cancelled."""
        while True:
            error = await self._live_once()
            self._lost(error)
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._backoff.next_s()):
                    await self._hurry.wait()

    def _new_writer(self, stream: BidiStream[Out, In] | None) -> GatheringWriter[Item]:
        encode = self._encode

        async def write(batch: list[Item]) -> None:
            if stream is None:
                raise CodedError(ErrorCode.UNAVAILABLE)
            await stream.write(encode(batch))

        return GatheringWriter(write=write, max_batch=self._max_batch, max_queued=self._max_queued)

    async def _live_once(self) -> CodedError:
        """One stream from its opening to its end; says why it ended."""
        stream: BidiStream[Out, In] | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            stream = self._open_stream()
            # Not wait_for: in Python 3.11 a cancellation that comes with the connection would be lost in it.
            async with asyncio.timeout(self._connect_timeout_s):
                await stream.wait_for_connection()
            writer = self._new_writer(stream)
            for item in self._take_queued():
                writer.send(item)
            self._writer = writer
            tasks = [asyncio.create_task(writer.run()), asyncio.create_task(self._read(stream))]
            self._last_error = None
            self._answered = False
            self.connected.set()
            self._log.info("stream connected", link=self._name)
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            return CodedError(ErrorCode.UNAVAILABLE, private="the peer ended the stream")
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        except CodedError as error:
            return error
        except TimeoutError:
            return CodedError(ErrorCode.UNAVAILABLE, private=f"not connected within {self._connect_timeout_s} s")
        except asyncio.InvalidStateError as error:
            # grpc.aio raises this for a write on a stream that has just ended.
            return CodedError(ErrorCode.UNAVAILABLE, private=str(error))
        finally:
            self.connected.clear()
            for task in tasks:
                task.cancel()
            if stream is not None:
                stream.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, stream: BidiStream[Out, In]) -> None:
        if isinstance(stream, DeliveringStream):
            await stream.deliver(self._on_any_message)
            return
        while True:
            message = await stream.read()
            if message is grpc.aio.EOF:
                return
            self._on_any_message(cast("In", message))

    def _on_any_message(self, message: In) -> None:
        if not self._answered:
            # A server that accepts and at once drops every stream must still be approached ever more slowly.
            self._backoff.reset()
            self._answered = True
        self._on_message(message)

    def _take_queued(self) -> list[Item]:
        return self._writer.take_all()

    def _lost(self, error: CodedError) -> None:
        self._last_error = error
        self._lost_at = asyncio.get_running_loop().time()
        self._take_queued()
        self._writer = self._new_writer(None)
        self._log.warning("stream lost", link=self._name, code=error.code, reason=error.private or error.public)
        self._on_broken(error)
