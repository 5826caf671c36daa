"""Relay streams that nodes dial themselves, because nobody can dial them (ADR 22)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import peer_identity

SERVICE = "crosslogic.node_agent.v1.TunnelService"
RULES = {f"/{SERVICE}/Tunnel": frozenset({"node"})}
MAX_TUNNELS = 4_096

Context = grpc.aio.ServicerContext[Any, Any]


class Tunnel:
    """One stream that a node dialled."""

    def __init__(
        self, *, messages: AsyncIterator[agent_pb.RelayResponse], write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """`messages` are the node's, `write` sends one serialised RelayRequest."""
        self.messages = messages
        self.write = write
        self.closed = asyncio.Event()


class TunnelStream:
    """A tunnel as the relay's link uses a stream: the one that the node has open when the link connects."""

    def __init__(self, tunnels: "Tunnels", node_id: str) -> None:
        self._tunnels = tunnels
        self._node_id = node_id
        self._tunnel: Tunnel | None = None

    async def wait_for_connection(self) -> None:
        """Returns once the node has dialled."""
        self._tunnel = await self._tunnels.wait_for(self._node_id)

    async def write(self, request: bytes) -> None:
        """Sends one message. Raises UNAVAILABLE when the tunnel has ended."""
        tunnel = self._tunnel
        if tunnel is None or tunnel.closed.is_set():
            raise CodedError(ErrorCode.UNAVAILABLE, private="the tunnel has ended")
        await tunnel.write(request)

    async def read(self) -> agent_pb.RelayResponse | object:
        """The node's next message, or grpc.aio.EOF."""
        tunnel = self._tunnel
        if tunnel is None or tunnel.closed.is_set():
            return grpc.aio.EOF
        return await anext(tunnel.messages, grpc.aio.EOF)

    def cancel(self) -> bool:
        """Ends the tunnel; the node dials again."""
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is None:
            return False
        tunnel.closed.set()
        return True


class Tunnels:
    """The tunnels that nodes have open to this worker."""

    def __init__(self, *, max_tunnels: int = MAX_TUNNELS) -> None:
        self._max_tunnels = max_tunnels
        self._open: dict[str, Tunnel] = {}
        self._came: dict[str, asyncio.Event] = {}
        self._log = get_logger(__name__)

    def __len__(self) -> int:
        """Nodes with a tunnel."""
        return len(self._open)

    def stream(self, node_id: str) -> TunnelStream:
        """A stream to the node, for a link to connect."""
        return TunnelStream(self, node_id)

    async def wait_for(self, node_id: str) -> Tunnel:
        """The node's tunnel, once it is there; however long that takes."""
        while (tunnel := self._open.get(node_id)) is None or tunnel.closed.is_set():
            came = self._came.setdefault(node_id, asyncio.Event())
            try:
                await came.wait()
            finally:
                if not came.is_set() and self._came.get(node_id) is came:
                    del self._came[node_id]
        return tunnel

    async def serve(self, node_id: str, tunnel: Tunnel, stopping: asyncio.Event) -> None:
        """Offers the tunnel for as long as it lasts; an earlier one of the same node ends. Raises OVERLOADED."""
        previous = self._open.get(node_id)
        if previous is None and len(self._open) >= self._max_tunnels:
            raise CodedError(ErrorCode.OVERLOADED, private=f"{len(self._open)} tunnels")
        if previous is not None:
            previous.closed.set()
        self._open[node_id] = tunnel
        came = self._came.pop(node_id, None)
        if came is not None:
            came.set()
        self._log.info("tunnel open", node_id=node_id)
        waits = [asyncio.create_task(tunnel.closed.wait()), asyncio.create_task(stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tunnel.closed.set()
            if self._open.get(node_id) is tunnel:
                del self._open[node_id]
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            self._log.info("tunnel closed", node_id=node_id)


def add_tunnel_service(tunnels: Tunnels, stopping: asyncio.Event) -> Callable[[grpc.aio.Server], None]:
    """Registers TunnelService. Messages to nodes are passed through as the bytes that the relay's link made."""

    async def tunnel(requests: AsyncIterator[agent_pb.RelayResponse], context: Context) -> None:
        caller = peer_identity(context)
        if caller is None:
            raise CodedError(ErrorCode.PERMISSION_DENIED, private="no identity")
        offered = Tunnel(messages=requests, write=context.write)
        # A node that goes away ends its stream, which cancels this call; so does one whose machine is gone.
        with contextlib.suppress(asyncio.InvalidStateError):
            await tunnels.serve(caller.name, offered, stopping)

    method: grpc.RpcMethodHandler[agent_pb.RelayResponse, bytes] = grpc.stream_stream_rpc_method_handler(
        tunnel, request_deserializer=agent_pb.RelayResponse.FromString, response_serializer=None
    )
    handler = grpc.method_handlers_generic_handler(SERVICE, {"Tunnel": method})
    return lambda server: server.add_generic_rpc_handlers((handler,))
