"""The scheduler's view of the fleet, kept up to date by the registry's watch, and kept when the watch is lost."""

from collections.abc import Callable, Collection

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_scheduler import policy
from crosslogic_scheduler.domain import NodeState
from crosslogic_scheduler.index import NodeIndex

NO_CAPACITY_RETRY_S = 1.0


class FleetView:
    """The active nodes."""

    def __init__(self, *, draw: Callable[[], float]) -> None:
        """`draw` gives a random number in [0, 1)."""
        self._draw = draw
        self._nodes: dict[str, NodeState] = {}
        self._index = NodeIndex()
        self._arriving: set[str] | None = None
        self.known = False
        """Whether a whole snapshot was ever received."""

    def __len__(self) -> int:
        """Active nodes."""
        return len(self._nodes)

    def apply(self, message: registry_pb.WatchNodesResponse) -> None:
        """Takes a message of the registry's watch.

        A node that a snapshot no longer has goes once the snapshot is complete: one that breaks off half way takes no
        node out of service.
        """
        if message.snapshot_start:
            self._arriving = set()
        for node in message.nodes:
            self._take(node)
        for node_id in message.removed_node_ids:
            self._drop(node_id)
        if self._arriving is not None:
            self._arriving.update(node.id for node in message.nodes)
            self._arriving.difference_update(message.removed_node_ids)
            if message.snapshot_complete:
                for node_id in self._nodes.keys() - self._arriving:
                    self._drop(node_id)
                self._arriving = None
                self.known = True

    def pick(self, model: str, org_id: str, region: str, excluded: Collection[str]) -> NodeState:
        """The node for a request; from now on the request is part of its load.

        Raises NO_CAPACITY; UNAVAILABLE before the fleet is known.
        """
        if not self.known:
            raise CodedError(ErrorCode.UNAVAILABLE, private="the fleet is not known yet")
        node = policy.pick(self._index.pools(model, org_id, region), excluded, self._draw)
        if node is None:
            raise CodedError(ErrorCode.NO_CAPACITY, retry_after_s=NO_CAPACITY_RETRY_S)
        node.load += node.step
        return node

    def _take(self, node: registry_pb.Node) -> None:
        if node.status != registry_pb.NODE_STATUS_ACTIVE:
            self._drop(node.id)
            return
        facts = node.facts
        known = self._nodes.get(node.id)
        models = frozenset(facts.models)
        capacity = policy.capacity_of(facts.max_tokens_per_sec)
        if known is None or not _same_place(known, node, models, capacity):
            moved = NodeState(
                id=node.id,
                address=facts.address,
                region=facts.region,
                org_id=node.org_id,
                models=models,
                reachable=node.reachable,
                capacity=capacity,
            )
            if known is not None:
                self._index.remove(known)
                moved.load, moved.step, moved.heartbeat_ns = known.load, known.step, known.heartbeat_ns
            self._nodes[node.id] = known = moved
            self._index.add(moved)
        heartbeat_ns = node.last_heartbeat_time.ToNanoseconds()
        if heartbeat_ns and heartbeat_ns == known.heartbeat_ns:
            # No news of its load (a lost stream, a snapshot after a reconnect): what was sent to it still counts.
            return
        known.heartbeat_ns = heartbeat_ns
        known.load, known.step = policy.load_of(
            capacity=capacity,
            decode_tokens_per_sec=facts.decode_tokens_per_sec,
            current_tokens_per_sec=node.load.current_tokens_per_sec,
            waiting=node.load.waiting,
        )

    def _drop(self, node_id: str) -> None:
        node = self._nodes.pop(node_id, None)
        if node is not None:
            self._index.remove(node)


def _same_place(known: NodeState, node: registry_pb.Node, models: frozenset[str], capacity: float) -> bool:
    return (
        known.reachable == node.reachable
        and known.capacity == capacity
        and known.address == node.facts.address
        and known.region == node.facts.region
        and known.org_id == node.org_id
        and known.models == models
    )
