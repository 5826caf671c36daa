"""One heartbeat stream of one node."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode

Write = Callable[[pb.HeartbeatStreamResponse], Awaitable[None]]

MAX_COMMANDS_WAITING = 16


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
        self._drain = False
        self._commands: list[pb.NodeCommand] = []
        self._tunnels: Sequence[str] | None = None
        self._again = False
        self.introduced = False
        """Its first message was taken."""
        self.ended = False
        self._interrupted = False

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
        """Answers a heartbeat."""
        self._drain = drain
        async with self._turn:
            await self._write(self._message())

    def order_drain(self, *, drain: bool = True) -> None:
        """Tells the node to drain now (or that it need not any more), not only at its next heartbeat.

        Like all orders it does not wait: the node may hang.
        """
        self._drain = drain
        self._push()

    def order_tunnels(self, addresses: Sequence[str]) -> None:
        """Tells the node now where the gateways' tunnels are."""
        self._tunnels = addresses
        self._push()

    def order(self, command: pb.NodeCommand) -> None:
        """Hands a command to the node now. Raises OVERLOADED when too many wait for it already."""
        if len(self._commands) >= MAX_COMMANDS_WAITING:
            raise CodedError(ErrorCode.OVERLOADED, "Too many commands wait for this node.")
        self._commands.append(command)
        self._push()

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

    def _push(self) -> None:
        self._again = True
        if not self.ended and (self._order is None or self._order.done()):
            self._order = asyncio.create_task(self._send_orders())

    def _message(self) -> pb.HeartbeatStreamResponse:
        self._again = False
        commands, self._commands = self._commands, []
        tunnels, self._tunnels = self._tunnels, None
        return pb.HeartbeatStreamResponse(
            next_heartbeat_ms=self._next_heartbeat_ms,
            drain=self._drain,
            commands=commands,
            tunnels=None if tunnels is None else pb.TunnelEndpoints(addresses=tunnels),
        )

    async def _send_orders(self) -> None:
        # A stream that broke: the node hears of it on its next one.
        with contextlib.suppress(Exception):
            while self._again:
                async with self._turn:
                    # An answer that went out meanwhile carried it.
                    if self._again:
                        await self._write(self._message())
