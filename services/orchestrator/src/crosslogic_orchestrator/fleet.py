"""The registry as the orchestrator sees it: its nodes by a watch, its catalogue and tokens by asking."""

import asyncio
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType

import grpc.aio

from crosslogic.registry.v1 import model_store_pb2 as model_store_pb
from crosslogic.registry.v1 import model_store_pb2_grpc as model_store_rpc
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_orchestrator.domain import LogLine, LogSource, NodeStatus, NodeView, in_words

_TIMEOUT_S = 5.0
_TOKEN_TTL_S = 3_600
_STATUS: Mapping[int, NodeStatus] = MappingProxyType(
    {
        pb.NODE_STATUS_REGISTERING: "registering",
        pb.NODE_STATUS_WARMING: "warming",
        pb.NODE_STATUS_ACTIVE: "active",
        pb.NODE_STATUS_DRAINING: "draining",
        pb.NODE_STATUS_DEAD: "dead",
    }
)


class RegistryFleet:
    """See ports.Fleet."""

    def __init__(
        self,
        *,
        channels: Channels,
        target: str,
        changed: asyncio.Event,
        told: Callable[[pb.WatchNodesResponse], None],
        lost: Callable[[], None],
        clock: Clock,
    ) -> None:
        """`target` is host:port of the registry; `changed` is set when a node is not what it was.

        `told` gets each message as it comes, and `lost` is called when no more come for now.
        """
        self._channels = channels
        self._target = target
        self._changed = changed
        self._told = told
        self._lost = lost
        self._clock = clock
        self._dead_since: dict[str, datetime] = {}
        self._nodes: dict[str, NodeView] = {}
        self._known = False
        self._followed = False
        self._models: frozenset[str] = frozenset()
        self._log = get_logger(__name__)

    def node(self, node_id: str) -> NodeView | None:
        """See ports.Fleet."""
        if not self._known:
            raise CodedError(ErrorCode.UNAVAILABLE, private="the registry has told of no nodes yet")
        found = self._nodes.get(node_id)
        if found is None or found.status != "dead":
            return found
        return replace(found, dead_since=self._dead_since.get(node_id))

    @property
    def followed(self) -> bool:
        """See ports.Fleet."""
        return self._followed

    async def join_token(self, *, node_id: str, org_id: str) -> str:
        """See ports.Fleet."""
        request = pb.CreateJoinTokenRequest(org_id=org_id, ttl_s=_TOKEN_TTL_S, node_id=node_id)
        try:
            return (await self._stub().CreateJoinToken(request, timeout=_TIMEOUT_S)).join_token
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def grant_weights(self, *, node_id: str, model: str) -> None:
        """See ports.Fleet."""
        request = model_store_pb.GrantWeightsRequest(node_id=node_id, name=model)
        try:
            await self._model_store().GrantWeights(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def refusal_for_size(self, *, model: str, instance_type: str) -> str:
        """See ports.Fleet."""
        if not instance_type:
            return ""
        request = model_store_pb.CheckFitRequest(name=model, instance_type=instance_type)
        try:
            found = await self._model_store().CheckFit(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return "" if not found.known or found.fits else "\n".join(found.arithmetic)

    async def log_lines(self, node_id: str, *, cursor: str) -> tuple[Sequence[LogLine], str]:
        """See ports.Fleet."""
        request = pb.ListNodeLogsRequest(node_id=node_id, cursor=cursor, least_level=pb.LOG_LEVEL_INFO)
        try:
            answer = await self._stub().ListNodeLogs(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return [log_line_of(line) for line in answer.lines], answer.cursor

    async def drain(self, node_id: str) -> None:
        """See ports.Fleet."""
        try:
            await self._stub().DrainNode(pb.DrainNodeRequest(node_id=node_id), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def has_model(self, name: str) -> bool:
        """See ports.Fleet."""
        try:
            stream = self._stub().WatchModels(pb.WatchModelsRequest(), timeout=_TIMEOUT_S)
            async for message in stream:
                return any(model.name == name for model in message.models)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return False

    async def follow(self) -> None:
        """Follows the registry for ever. While it is away, nodes stay as they were."""
        backoff = Backoff(cap_s=2.0)
        while True:
            try:
                async for message in self._watch():
                    self._take(message)
                    backoff.reset()
            except grpc.aio.AioRpcError as error:
                self._log.warning("the registry is away", reason=error.details())
            self._followed = False
            # What is dead now may come back meanwhile.
            self._dead_since.clear()
            self._lost()
            await asyncio.sleep(backoff.next_s())

    def _watch(self) -> AsyncIterable[pb.WatchNodesResponse]:
        stream: AsyncIterable[pb.WatchNodesResponse] = self._stub().WatchNodes(pb.WatchNodesRequest())
        return stream

    def _take(self, message: pb.WatchNodesResponse) -> None:
        self._told(message)
        if message.snapshot_start:
            self._nodes = {}
            self._followed = False
        for node in message.nodes:
            status = _STATUS.get(node.status, "registering")
            weights = node.weights
            if status == "dead":
                self._dead_since.setdefault(node.id, self._clock.now())
            else:
                self._dead_since.pop(node.id, None)
            self._nodes[node.id] = NodeView(
                node.id,
                status,
                node.status_reason,
                node.load.running,
                weights.bytes_done,
                weights.bytes_total,
                engine_deaths=node.load.engine_restarts,
            )
        for node_id in message.removed_node_ids:
            self._nodes.pop(node_id, None)
            self._dead_since.pop(node_id, None)
        self._known = self._known or message.snapshot_complete
        self._followed = self._followed or message.snapshot_complete
        self._changed.set()

    def _stub(self) -> "rpc.RegistryServiceAsyncStub":
        return rpc.RegistryServiceStub(self._channels.service("registry", self._target))

    def _model_store(self) -> "model_store_rpc.ModelStoreServiceAsyncStub":
        return model_store_rpc.ModelStoreServiceStub(self._channels.service("registry", self._target))


def log_line_of(line: pb.NodeLogLine) -> LogLine:
    """A line that a node shipped."""
    source: LogSource = "engine" if line.source == pb.LOG_SOURCE_ENGINE else "agent"
    text = line.text if source == "engine" else in_words(line.text)
    try:
        at = line.time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        # A node says what it likes.
        at = datetime.fromtimestamp(0, UTC)
    return LogLine(at=at, source=source, text=text)
