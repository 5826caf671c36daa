"""The fleet as scaling sees it: load and fate of every node, as the registry pushes them."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_orchestrator.scaling.domain import Load


@dataclass(frozen=True, slots=True)
class NodeSample:
    """A node as last heard of."""

    id: str
    models: tuple[str, ...]
    region: str
    shared: bool
    """Every organisation may use it."""
    serves: bool
    ending: bool
    """Its cloud takes it back, or it is dead."""
    dead: bool
    """The registry does not hear of it any more."""
    draining: bool
    at_risk: bool
    load: Load


class FleetSignals:
    """Keeps the samples; wakes whoever decides when a node is about to go."""

    def __init__(self, *, urgent: asyncio.Event) -> None:
        """`urgent` is set when there is something to decide at once."""
        self._urgent = urgent
        self._nodes: dict[str, NodeSample] = {}
        self._known = False
        self._current = False
        self._coming: dict[str, NodeSample] | None = None
        """A snapshot of which only a part has come."""

    def take(self, message: pb.WatchNodesResponse) -> None:
        """A message of the registry's watch."""
        if message.snapshot_start:
            # Until all have been told what was known before holds: who is not told of yet is not gone.
            self._coming = {}
        nodes = self._nodes if self._coming is None else self._coming
        for node in message.nodes:
            sample, known = _sample(node), self._nodes.get(node.id)
            nodes[node.id] = sample
            if known is None or _fate(sample) != _fate(known):
                self._urgent.set()
        for node_id in message.removed_node_ids:
            if nodes.pop(node_id, None) is not None:
                self._urgent.set()
        if message.snapshot_complete and self._coming is not None:
            self._nodes, self._coming = self._coming, None
            self._known = self._current = True
            self._urgent.set()

    def lost(self) -> None:
        """The registry tells nothing more for now: nodes stay as they were."""
        self._current = False

    @property
    def current(self) -> bool:
        """Who is not among `nodes` is not there. False: it may have come since the registry was last heard."""
        return self._current

    @property
    def nodes(self) -> dict[str, NodeSample]:
        """By id. Raises UNAVAILABLE while nothing was heard yet."""
        if not self._known:
            raise CodedError(ErrorCode.UNAVAILABLE, private="the registry has told of no nodes yet")
        return self._nodes

    def serving(self, model: str, region: str) -> Iterable[NodeSample]:
        """Nodes that serve everybody a model in a region; empty: in any."""
        return (
            node
            for node in self.nodes.values()
            if node.serves and node.shared and model in node.models and region in ("", node.region)
        )


def _fate(sample: NodeSample) -> tuple[bool, bool, bool, bool]:
    return sample.serves, sample.ending, sample.draining, sample.at_risk


def _sample(node: pb.Node) -> NodeSample:
    notice = node.spot_notice.kind if node.HasField("spot_notice") else pb.SPOT_NOTICE_KIND_UNSPECIFIED
    draining = node.status == pb.NODE_STATUS_DRAINING
    ending = node.status == pb.NODE_STATUS_DEAD or notice == pb.SPOT_NOTICE_KIND_TERMINATION
    facts, load = node.facts, node.load
    return NodeSample(
        id=node.id,
        models=tuple(facts.models),
        region=facts.region,
        shared=not node.org_id,
        serves=node.status == pb.NODE_STATUS_ACTIVE and not ending,
        ending=ending,
        dead=node.status == pb.NODE_STATUS_DEAD,
        draining=draining,
        at_risk=notice == pb.SPOT_NOTICE_KIND_RISK,
        load=Load(
            running=load.running,
            waiting=load.waiting,
            kv_cache_usage=load.kv_cache_usage,
            tokens_per_s=load.current_tokens_per_sec,
            capacity_tokens_per_s=facts.max_tokens_per_sec,
            max_sequences=facts.max_sequences,
            first_byte_ms=node.metrics.first_byte_ms if node.HasField("metrics") else 0,
        ),
    )
