"""The tunnels of a node that nobody can dial: it dials every gateway worker itself (ADR 22)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import grpc.aio

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import CodedError, from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_node_agent.relay_session import RelaySession

METHOD = "/crosslogic.node_agent.v1.TunnelService/Tunnel"
MAX_TUNNELS = 4_096
_CONNECT_S = 5.0
_LAST_FRAMES_S = 2.0

TunnelCall = grpc.aio.StreamStreamCall[pb.RelayResponse, pb.RelayRequest]


class Tunnels:
    """One stream to each gateway worker, dialled again for ever."""

    def __init__(self, *, channels: Channels, new_session: Callable[[], RelaySession]) -> None:
        """`new_session` makes what runs the calls of one stream."""
        self._channels = channels
        self._new_session = new_session
        self._wanted: tuple[str, ...] = ()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._running = False
        self._log = get_logger(__name__)

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Where the workers' tunnels are now. Does not wait; a worker that is gone ends its stream by itself."""
        self._wanted = tuple(addresses)[:MAX_TUNNELS]
        if self._running:
            self._dial()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Holds the tunnels for as long as the block lasts; at its end each sends what it still has."""
        self._running = True
        self._dial()
        try:
            yield
        finally:
            self._running = False
            self._stopping.set()
            tasks = list(self._tasks.values())
            if tasks:
                await asyncio.wait(tasks, timeout=_LAST_FRAMES_S)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _dial(self) -> None:
        for address in self._wanted:
            if address not in self._tasks:
                task = asyncio.create_task(self._keep(address), name=f"tunnel {address}")
                self._tasks[address] = task
                task.add_done_callback(partial(self._forget, address))

    def _forget(self, address: str, _task: "asyncio.Task[None]") -> None:
        self._tasks.pop(address, None)
        if self._running and address in self._wanted:
            # It was offered again while its last stream ended.
            self._dial()

    async def _keep(self, address: str) -> None:
        """Dials a worker for as long as it is wanted; one that is no longer offered is left once its stream ends."""
        backoff = Backoff(base_s=0.1, cap_s=5.0)
        while not self._stopping.is_set() and address in self._wanted:
            reason = "the gateway ended the stream"
            try:
                await self._serve_once(address, backoff)
            except grpc.aio.AioRpcError as error:
                reason = from_rpc_error(error).private or from_rpc_error(error).public
            except CodedError as error:
                reason = error.private or error.public
            except TimeoutError:
                reason = f"not connected within {_CONNECT_S:g} s"
            except asyncio.InvalidStateError as error:
                # A write on a stream that has just ended.
                reason = str(error)
            except Exception as error:  # noqa: BLE001  # one worker's stream must not end those to the others
                self._log.exception("tunnel failed", address=address)
                reason = repr(error)
            if not self._stopping.is_set():
                self._log.warning("tunnel lost, dialling again", address=address, reason=reason)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), backoff.next_s())

    async def _serve_once(self, address: str, backoff: Backoff) -> None:
        channel = self._channels.service("gateway", address)
        method: grpc.aio.StreamStreamMultiCallable[pb.RelayResponse, pb.RelayRequest] = channel.stream_stream(
            METHOD,
            request_serializer=pb.RelayResponse.SerializeToString,
            response_deserializer=pb.RelayRequest.FromString,
        )
        call = method()
        try:
            # Not wait_for: in Python 3.11 a cancellation that comes with the connection would be lost in it.
            async with asyncio.timeout(_CONNECT_S):
                await call.wait_for_connection()
            self._log.info("tunnel open", address=address)
            backoff.reset()
            await self._new_session().run(_messages(call), call.write, self._stopping)
        finally:
            call.cancel()


async def _messages(call: TunnelCall) -> AsyncIterator[pb.RelayRequest]:
    while True:
        message = await call.read()
        if not isinstance(message, pb.RelayRequest):
            return
        yield message
