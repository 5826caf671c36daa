"""One heartbeat stream of one node."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from crosslogic.registry.v1 import registry_pb2 as pb

Write = Callable[[pb.HeartbeatStreamResponse], Awaitable[None]]


class HeartbeatSession:
    """Reads a node's heartbeats until the stream ends or somebody ends it; answers and orders go out one at a time.

    There may be ten thousand of them, so a session has no task of its own but for an order under way.
    """

    def __init__(self, *, write: Write, next_heartbeat_ms: int) -> None:
        """`write` sends one message on the stream."""
        self._write = write
        self._next_heartbeat_ms = next_heartbeat_ms
        self._turn = asyncio.Lock()
        self._reader: asyncio.Task[object] | None = None
        self._order: asyncio.Task[None] | None = None
        self.introduced = False
        """Its first message was taken."""
        self.ended = False
        self._interrupted = False
        self._answered_early = False

    async def next(self, requests: AsyncIterator[pb.HeartbeatStreamRequest]) -> pb.HeartbeatStreamRequest | None:
        """The next heartbeat. None: the node ended the stream, or we did."""
        if self.ended:
            return None
        reader = self._reader = asyncio.current_task()
        try:
            return await anext(requests, None)
        except asyncio.CancelledError:
            if self._interrupted and reader is not None and reader.uncancel() == 0:
                return None
            raise
        finally:
            self._reader = None

    async def answer(self, *, drain: bool) -> None:
        """Answers a heartbeat, unless an order was its answer already."""
        async with self._turn:
            if self._answered_early:
                self._answered_early = False
                return
            await self._write(pb.HeartbeatStreamResponse(next_heartbeat_ms=self._next_heartbeat_ms, drain=drain))

    def order_drain(self) -> None:
        """Tells the node to drain now, not only at its next heartbeat. Does not wait: the node may hang.

        The order is the next heartbeat's answer, sent early: a node gets one message a heartbeat, so one that reads
        only after it wrote never falls behind.
        """
        if self._order is None or self._order.done():
            self._order = asyncio.create_task(self._send_order())

    def end(self) -> None:
        """Ends the stream: a later one of the same node has taken over, or the server stops. May be called twice."""
        if self.ended:
            return
        self.ended = True
        if self._order is not None:
            self._order.cancel()
        if self._reader is not None:
            self._interrupted = True
            self._reader.cancel()

    async def _send_order(self) -> None:
        # A stream that broke: the node hears of it on its next one.
        with contextlib.suppress(Exception):
            async with self._turn:
                if not self._answered_early:
                    self._answered_early = True
                    await self._write(pb.HeartbeatStreamResponse(next_heartbeat_ms=self._next_heartbeat_ms, drain=True))
