"""What the registry is told of this node, for as long as the agent runs; and what it answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_node_agent.domain import EngineLoad, EngineStatus
from crosslogic_node_agent.engine_api import EngineApi, EngineFailureError
from crosslogic_node_agent.metrics import AgentMetrics
from crosslogic_node_agent.node_life import NodeLife
from crosslogic_node_agent.supervisor import Supervisor

AGENT_VERSION = "0.1.0"
MAX_REASON_BYTES = 512
_LEAST_INTERVAL_S = 0.05
_CONNECT_S = 5.0
_ANSWER_S = 15.0

HeartbeatCall = grpc.aio.StreamStreamCall[pb.HeartbeatStreamRequest, pb.HeartbeatStreamResponse]


@dataclass(frozen=True, slots=True)
class Place:
    """Where this node is and what it serves, as its operator set it."""

    address: str
    region: str
    model: str
    gpu_type: str = ""
    gpu_count: int = 0
    vram_total_bytes: int = 0


class Heartbeat:
    """The heartbeat stream, opened again for ever; inference does not depend on it."""

    def __init__(
        self,
        *,
        place: Place,
        supervisor: Supervisor,
        life: NodeLife,
        api: EngineApi,
        channels: Channels,
        registry_target: str,
        metrics: AgentMetrics,
    ) -> None:
        self._place = place
        self._supervisor = supervisor
        self._life = life
        self._api = api
        self._channels = channels
        self._target = registry_target
        self._metrics = metrics
        self._load = EngineLoad()
        self._told_facts: pb.NodeFacts | None = None
        self._call: HeartbeatCall | None = None
        self._log = get_logger(__name__)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Beats for as long as the block lasts, then says goodbye."""
        task = asyncio.create_task(self._live(), name="heartbeat")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _live(self) -> None:
        backoff = Backoff(base_s=0.1, cap_s=5.0)
        while True:
            try:
                await self._live_once(backoff)
                reason = "the registry ended the stream"
            except grpc.aio.AioRpcError as error:
                coded = from_rpc_error(error)
                reason = coded.private or coded.public
            except (TimeoutError, asyncio.InvalidStateError, OSError) as error:
                reason = str(error) or "no answer in time"
            except Exception as error:  # noqa: BLE001  # the one loop that nothing may end
                self._log.exception("heartbeat failed")
                reason = repr(error)
            self._log.warning("registry not reached, inference goes on", reason=reason)
            await asyncio.sleep(backoff.next_s())

    async def _live_once(self, backoff: Backoff) -> None:
        """One stream from its opening to its end. A cancel says goodbye first."""
        stub: rpc.RegistryServiceAsyncStub = rpc.RegistryServiceStub(self._channels.service("registry", self._target))
        call = stub.HeartbeatStream()
        self._told_facts = None
        try:
            await asyncio.wait_for(call.wait_for_connection(), _CONNECT_S)
            while True:
                self._supervisor.changed.clear()
                self._life.changed.clear()
                await call.write(await self._beat())
                answer = await asyncio.wait_for(call.read(), _ANSWER_S)
                if not isinstance(answer, pb.HeartbeatStreamResponse):
                    return
                backoff.reset()
                self._metrics.registry_connected.set(1)
                self._life.drain_asked(answer.drain)
                await self._pause(max(answer.next_heartbeat_ms / 1000, _LEAST_INTERVAL_S))
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._say_goodbye(call), 1.0)
            raise
        finally:
            self._metrics.registry_connected.set(0)
            call.cancel()

    async def _say_goodbye(self, call: "HeartbeatCall") -> None:
        await call.write(pb.HeartbeatStreamRequest(status=pb.NODE_STATUS_DEAD, status_reason="the agent was stopped"))
        await call.read()

    async def _pause(self, interval_s: float) -> None:
        """Until the next heartbeat is due, or there is news that must not wait."""
        waits = [
            asyncio.create_task(self._supervisor.changed.wait()),
            asyncio.create_task(self._life.changed.wait()),
        ]
        try:
            await asyncio.wait(waits, timeout=interval_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _beat(self) -> pb.HeartbeatStreamRequest:
        load = await self._load_now()
        facts = self._facts()
        status, reason = self._life.status(self._supervisor.state)
        told = facts if facts != self._told_facts else None
        self._told_facts = facts
        text = reason.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore")
        return pb.HeartbeatStreamRequest(facts=told, load=load, status=status, status_reason=text)

    async def _load_now(self) -> pb.NodeLoad:
        restarts = self._supervisor.state.restarts
        if self._supervisor.state.status is not EngineStatus.READY:
            return pb.NodeLoad(engine_restarts=restarts)
        try:
            load = await self._api.load()
        except EngineFailureError as error:
            self._log.warning("engine's metrics not read", reason=str(error))
            return pb.NodeLoad(engine_restarts=restarts)
        before, self._load = self._load, load
        return pb.NodeLoad(
            running=load.running,
            waiting=load.waiting,
            kv_cache_usage=load.kv_cache_usage,
            current_tokens_per_sec=tokens_per_sec(before, load),
            prompt_tokens_total=load.prompt_tokens_total,
            generation_tokens_total=load.generation_tokens_total,
            engine_restarts=restarts,
        )

    def _facts(self) -> pb.NodeFacts:
        engine = self._supervisor.facts
        capacity = self._supervisor.capacity
        place = self._place
        return pb.NodeFacts(
            address=place.address,
            region=place.region,
            models=[place.model],
            context_length=engine.context_length,
            engine=engine.name,
            engine_version=engine.version,
            agent_version=AGENT_VERSION,
            max_tokens_per_sec=capacity.max_tokens_per_sec,
            prefill_tokens_per_sec=capacity.prefill_tokens_per_sec,
            decode_tokens_per_sec=capacity.decode_tokens_per_sec,
            gpu_type=place.gpu_type,
            gpu_count=place.gpu_count,
            vram_total_bytes=place.vram_total_bytes,
            engine_paths=engine.paths,
        )


def tokens_per_sec(before: EngineLoad, now: EngineLoad) -> float:
    """Tokens generated per second between two readings; 0 after a restart, when the counter begins anew."""
    elapsed_s = now.read_at - before.read_at
    tokens = now.generation_tokens_total - before.generation_tokens_total
    if before.read_at == 0.0 or elapsed_s <= 0 or tokens <= 0:
        return 0.0
    return tokens / elapsed_s
