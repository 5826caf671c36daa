"""The stream to the registry for as long as the agent runs: what this node says, and what it is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import grpc.aio

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_node_agent.commands import Commands
from crosslogic_node_agent.log_buffer import LogBuffer
from crosslogic_node_agent.metrics import AgentMetrics
from crosslogic_node_agent.node_life import NodeLife
from crosslogic_node_agent.report import Report
from crosslogic_node_agent.supervisor import Supervisor

_LEAST_INTERVAL_S = 0.05
_FIRST_INTERVAL_S = 5.0
_CONNECT_S = 5.0
_ANSWER_S = 15.0
_GOODBYE_S = 2.0
"""For the registry to hear that the node is gone; one that does not will find out by itself."""

HeartbeatCall = grpc.aio.StreamStreamCall[pb.HeartbeatStreamRequest, pb.HeartbeatStreamResponse]


class Heartbeat:
    """The heartbeat stream, opened again for ever; inference does not depend on it.

    It is read all the time: an order is obeyed as soon as it comes. It is written when a heartbeat is due, and at once
    when the node's life changed or a command has come to its end.
    """

    def __init__(
        self,
        *,
        report: Report,
        supervisor: Supervisor,
        life: NodeLife,
        commands: Commands,
        on_tunnels: Callable[[Sequence[str]], None],
        channels: Channels,
        registry_target: str,
        metrics: AgentMetrics,
        logs: LogBuffer | None = None,
    ) -> None:
        """`on_tunnels` is told the addresses of the gateways' tunnels; it must not block.

        Of `logs` each heartbeat carries a batch.
        """
        self._report = report
        self._supervisor = supervisor
        self._life = life
        self._commands = commands
        self._on_tunnels = on_tunnels
        self._channels = channels
        self._target = registry_target
        self._metrics = metrics
        self._logs = logs
        self._told_facts: pb.NodeFacts | None = None
        self._told_notice: pb.SpotNotice | None = None
        self._told_weights: pb.WeightsProgress | None = None
        self._interval_s = _FIRST_INTERVAL_S
        self._retimed = asyncio.Event()
        self._ending = asyncio.Event()
        self._answered_at = 0.0
        self._connected = False
        self._log = get_logger(__name__)

    @property
    def connected(self) -> bool:
        """Whether the registry answers."""
        return self._connected

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Beats for as long as the block lasts, then says goodbye."""
        task = asyncio.create_task(self._live(), name="heartbeat")
        try:
            yield
        finally:
            # Told rather than cancelled: gRPC ends a stream whose write is cancelled, and the goodbye with it.
            self._ending.set()
            await asyncio.wait([task], timeout=_GOODBYE_S)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _live(self) -> None:
        backoff = Backoff(base_s=0.1, cap_s=5.0)
        while not self._ending.is_set():
            reason = "the registry ended the stream"
            try:
                await self._live_once(backoff)
            except grpc.aio.AioRpcError as error:
                coded = from_rpc_error(error)
                reason = coded.private or coded.public
            except TimeoutError:
                reason = "no answer in time"
            except asyncio.InvalidStateError as error:
                # A write on a stream that has just ended.
                reason = str(error)
            except Exception as error:  # noqa: BLE001  # the node must not leave the fleet for an agent's bug
                self._log.exception("heartbeat failed")
                reason = repr(error)
            if not self._ending.is_set():
                self._log.warning("registry not reached, inference goes on", reason=reason)
                await asyncio.sleep(backoff.next_s())

    async def _live_once(self, backoff: Backoff) -> None:
        """One stream from its opening to its end, or to the node's goodbye."""
        stub: rpc.RegistryServiceAsyncStub = rpc.RegistryServiceStub(self._channels.service("registry", self._target))
        call = stub.HeartbeatStream()
        self._told_facts = self._told_notice = self._told_weights = None
        reading: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        try:
            # Not wait_for: in Python 3.11 a cancellation that comes with the connection would be lost in it.
            async with asyncio.timeout(_CONNECT_S):
                await call.wait_for_connection()
            reading = asyncio.create_task(self._read(call, backoff), name="heartbeat answers")
            self._answered_at = loop.time()
            told_drain = False
            while not reading.done() and not self._ending.is_set():
                self._supervisor.changed.clear()
                self._life.changed.clear()
                self._commands.changed.clear()
                self._report.weights_changed.clear()
                leaving, told_drain = self._life.draining and not told_drain, self._life.draining
                await self._write(call, self._message(None if leaving else await self._load()))
                await self._pause(reading)
                if loop.time() - self._answered_at > max(_ANSWER_S, 3 * self._interval_s):
                    raise TimeoutError
            if self._ending.is_set():
                await self._say_goodbye(call, reading)
            reading.result()
        finally:
            self._set_connected(connected=False)
            if reading is not None:
                reading.cancel()
            call.cancel()

    async def _write(self, call: "HeartbeatCall", message: pb.HeartbeatStreamRequest) -> None:
        last, batch = (0, None) if self._logs is None else self._logs.batch()
        if batch is not None:
            message.logs.CopyFrom(batch)
        await call.write(message)
        if self._logs is not None:
            self._logs.shipped(last)

    async def _read(self, call: "HeartbeatCall", backoff: Backoff) -> None:
        """Takes answers and orders until the registry ends the stream. Raises what ended it."""
        loop = asyncio.get_running_loop()
        while True:
            answer = await call.read()
            if not isinstance(answer, pb.HeartbeatStreamResponse):
                return
            backoff.reset()
            self._answered_at = loop.time()
            self._set_connected(connected=True)
            interval_s = max(answer.next_heartbeat_ms / 1000, _LEAST_INTERVAL_S)
            if interval_s != self._interval_s:
                self._interval_s = interval_s
                self._retimed.set()
            self._life.drain_asked(answer.drain)
            for command in answer.commands:
                self._commands.take(command)
            if answer.HasField("tunnels"):
                self._on_tunnels(answer.tunnels.addresses)

    def _set_connected(self, *, connected: bool) -> None:
        self._connected = connected
        self._metrics.registry_connected.set(connected)

    async def _say_goodbye(self, call: "HeartbeatCall", reading: "asyncio.Task[None]") -> None:
        # With the last lines of its log: nobody can ask it for them any more.
        await self._write(call, pb.HeartbeatStreamRequest(status=pb.NODE_STATUS_DEAD, status_reason=self._life.goodbye))
        await call.done_writing()
        await asyncio.wait([reading])

    async def _pause(self, reading: "asyncio.Task[None]") -> None:
        """Until the next heartbeat is due, the stream has ended, or there is news that must not wait."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        news = (
            self._report.weights_changed,
            self._supervisor.changed,
            self._life.changed,
            self._commands.changed,
            self._ending,
        )
        waits = [asyncio.create_task(event.wait()) for event in news]
        try:
            while True:
                self._retimed.clear()
                retimed = asyncio.create_task(self._retimed.wait())
                waits.append(retimed)
                left_s = max(began_at + self._interval_s - loop.time(), 0.0)
                await asyncio.wait([reading, *waits], timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if not retimed.done():
                    return
        finally:
            for wait in waits:
                wait.cancel()

    async def _load(self) -> pb.NodeLoad | None:
        """The engine's load, unless the node's life changes first: that must not wait for a slow engine."""
        loading = asyncio.create_task(self._report.load())
        news = asyncio.create_task(self._life.changed.wait())
        try:
            await asyncio.wait([loading, news], return_when=asyncio.FIRST_COMPLETED)
            return loading.result() if loading.done() else None
        finally:
            loading.cancel()
            news.cancel()

    def _message(self, load: pb.NodeLoad | None) -> pb.HeartbeatStreamRequest:
        facts = self._report.facts()
        notice = self._report.spot_notice()
        status, reason = self._report.status()
        message = pb.HeartbeatStreamRequest(
            facts=facts if facts != self._told_facts else None,
            load=load,
            status=status,
            status_reason=reason,
            metrics=self._report.take_metrics(),
            outcomes=self._commands.take_outcomes(),
        )
        if notice != self._told_notice:
            # A notice that was withdrawn is told as one that says nothing.
            message.spot_notice.CopyFrom(notice or pb.SpotNotice())
        weights = self._report.weights()
        if weights is not None and weights != self._told_weights:
            message.weights.CopyFrom(weights)
        self._told_facts, self._told_notice, self._told_weights = facts, notice, weights
        return message
