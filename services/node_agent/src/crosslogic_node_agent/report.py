"""What this node says of itself, as the registry's contract words it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.logs import get_logger
from crosslogic_node_agent.domain import EngineLoad, EngineStatus, MachineState
from crosslogic_node_agent.engine_api import EngineApi, EngineFailureError
from crosslogic_node_agent.engine_split import number_after
from crosslogic_node_agent.metrics import AgentMetrics
from crosslogic_node_agent.node_life import NodeLife
from crosslogic_node_agent.ports import Machine
from crosslogic_node_agent.spot.notice import NoticeKind, SpotNotice
from crosslogic_node_agent.stored_weights import StoredWeights
from crosslogic_node_agent.supervisor import Supervisor

AGENT_VERSION: Final = "0.1.0"
MAX_REASON_BYTES: Final = 512
_KINDS: Final = MappingProxyType(
    {NoticeKind.RISK: pb.SPOT_NOTICE_KIND_RISK, NoticeKind.TERMINATION: pb.SPOT_NOTICE_KIND_TERMINATION}
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where this node is and what it serves, as its operator set it."""

    address: str
    """Empty: it is reached through tunnels."""
    region: str
    model: str
    gpu_type: str = ""
    gpu_count: int = 0
    vram_total_bytes: int = 0
    cloud: str = ""
    zone: str = ""
    instance_type: str = ""
    spot: bool = False
    hourly_price_picodollars: int = 0
    max_sequences: int = 0
    """Requests that the engine was told to run at once. 0: not known."""
    model_version: str = ""


def max_sequences_of(command: Sequence[str]) -> int:
    """What a command that starts an engine says of `--max-num-seqs`; 0 when it says nothing."""
    return number_after(command, "--max-num-seqs")


class Report:
    """Makes the messages. Load and metrics are those of the engine and the machine, never guesses."""

    def __init__(
        self,
        *,
        place: Place,
        supervisor: Supervisor,
        life: NodeLife,
        api: EngineApi,
        machine: Machine,
        metrics: AgentMetrics,
        metrics_every_s: float = 15.0,
        weights: StoredWeights | None = None,
    ) -> None:
        """`machine` is looked at every `metrics_every_s` seconds."""
        self._place = place
        self._supervisor = supervisor
        self._life = life
        self._api = api
        self._machine = machine
        self._metrics = metrics
        self._metrics_every_s = metrics_every_s
        self._weights = weights
        self.weights_changed = asyncio.Event() if weights is None else weights.changed
        """Set when there is news of the weights that are fetched."""
        self._load = EngineLoad()
        self._metrics_load = EngineLoad()
        self._fresh_metrics: pb.NodeMetrics | None = None
        self._log = get_logger(__name__)
        self.machine = MachineState()
        """As it was last looked at."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks at the machine now and then for as long as the block lasts."""
        task = asyncio.create_task(self._look_forever(), name="machine metrics")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def status(self) -> tuple[pb.NodeStatus.ValueType, str]:
        """Where the node is in its life, and why."""
        status, reason = self._life.status(self._supervisor.state)
        return status, reason.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore")

    def facts(self) -> pb.NodeFacts:
        """What the node is."""
        engine = self._supervisor.facts
        capacity = self._supervisor.capacity
        place, machine = self._place, self.machine
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
            gpu_type=place.gpu_type or machine.gpu_type,
            gpu_count=place.gpu_count or machine.gpu_count,
            vram_total_bytes=place.vram_total_bytes or machine.vram_total_bytes,
            engine_paths=engine.paths,
            driver_version=machine.driver_version,
            cloud=place.cloud,
            zone=place.zone,
            instance_type=place.instance_type,
            spot=place.spot,
            hourly_price_picodollars=place.hourly_price_picodollars,
            tunnel=not place.address,
            max_sequences=place.max_sequences,
            model_version=self._weights.version if self._weights else place.model_version,
        )

    def spot_notice(self) -> pb.SpotNotice | None:
        """What the cloud told of the machine's end. None: nothing."""
        return None if self._life.notice is None else notice_message(self._life.notice)

    def weights(self) -> pb.WeightsProgress | None:
        """How far the node is with fetching its weights. None: it fetches none."""
        return self._weights.progress if self._weights else None

    async def load(self) -> pb.NodeLoad:
        """How busy the engine is."""
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

    def take_metrics(self) -> pb.NodeMetrics | None:
        """The machine's metrics, once each. None: no new ones."""
        fresh, self._fresh_metrics = self._fresh_metrics, None
        return fresh

    async def look(self) -> None:
        """Looks at the machine now."""
        self.machine = await asyncio.to_thread(self._machine.look)
        machine, calls = self.machine, self._metrics.take_calls()
        self._metrics.machine(machine)
        before, self._metrics_load = self._metrics_load, self._load
        self._fresh_metrics = pb.NodeMetrics(
            gpu_utilization=machine.gpu_utilization,
            gpu_temperature_celsius=machine.gpu_temperature_celsius,
            vram_used_bytes=machine.vram_used_bytes,
            vram_total_bytes=machine.vram_total_bytes,
            prefix_cache_hit_rate=hit_rate(before, self._load),
            oom_count=self._supervisor.oom_count,
            disk_total_bytes=machine.disk_total_bytes,
            disk_free_bytes=machine.disk_free_bytes,
            calls=calls.calls,
            failed_calls=calls.failed,
            first_byte_ms=calls.first_byte_ms,
            tokens_per_sec=tokens_per_sec(before, self._load),
        )

    async def _look_forever(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001  # a driver may fail in its own ways; the node serves on
                self._log.exception("the machine's metrics cannot be read")
            await asyncio.sleep(self._metrics_every_s)


def notice_message(notice: SpotNotice) -> pb.SpotNotice:
    """A notice as the contract words it."""
    message = pb.SpotNotice(kind=_KINDS[notice.kind], source=notice.source, action=notice.action)
    message.notice_time.FromDatetime(notice.noticed_at)
    if notice.deadline_at is not None:
        message.deadline_time.FromDatetime(notice.deadline_at)
    return message


def tokens_per_sec(before: EngineLoad, now: EngineLoad) -> float:
    """Tokens generated per second between two readings; 0 after a restart, when the counter begins anew."""
    elapsed_s = now.read_at - before.read_at
    tokens = now.generation_tokens_total - before.generation_tokens_total
    if before.read_at == 0.0 or elapsed_s <= 0 or tokens <= 0:
        return 0.0
    return tokens / elapsed_s


def hit_rate(before: EngineLoad, now: EngineLoad) -> float:
    """Share of the prompt tokens between two readings that the prefix cache held; 0 when there were none."""
    asked = now.prefix_queries_total - before.prefix_queries_total
    hits = now.prefix_hits_total - before.prefix_hits_total
    return min(hits / asked, 1.0) if asked > 0 and hits > 0 else 0.0
