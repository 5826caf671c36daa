"""The scheduler's view of the fleet, kept up to date by the registry's watch, and kept when the watch is lost."""

from collections import OrderedDict
from collections.abc import Callable, Collection

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_scheduler import policy
from crosslogic_scheduler.policy import NodeState

MAX_PLACES = 10_000
Place = tuple[str, str, str]
"""Model, organisation, region."""


class FleetView:
    """Active nodes, indexed by what requests ask for."""

    def __init__(self, *, draw: Callable[[], float]) -> None:
        """`draw` gives a random number in [0, 1)."""
        self._draw = draw
        self._nodes: dict[str, NodeState] = {}
        self._arriving: dict[str, NodeState] | None = None
        self._pools: OrderedDict[Place, list[NodeState]] = OrderedDict()
        self.known = False
        """Whether a whole snapshot was ever received."""

    def __len__(self) -> int:
        """Active nodes."""
        return len(self._nodes)

    def apply(self, message: registry_pb.WatchNodesResponse) -> None:
        """Takes a message of the registry's watch. A snapshot replaces the old view only once it is complete."""
        if message.snapshot_start:
            self._arriving = {}
        target = self._nodes if self._arriving is None else self._arriving
        for node in message.nodes:
            self._take(target, node)
        for node_id in message.removed_node_ids:
            if target.pop(node_id, None) is not None:
                self._pools.clear()
        if message.snapshot_complete and self._arriving is not None:
            self._nodes, self._arriving = self._arriving, None
            self._pools.clear()
            self.known = True

    def pick(self, place: Place, excluded: Collection[str]) -> NodeState:
        """The node for a request. Raises NO_CAPACITY; UNAVAILABLE before the fleet is known."""
        pool = self._pools.get(place)
        if pool is None:
            pool = self._pool(place)
        node = policy.pick(pool, excluded, self._draw) if pool else None
        if node is None:
            raise CodedError(ErrorCode.NO_CAPACITY, retry_after_s=1.0)
        node.assigned += 1
        return node

    def _pool(self, place: Place) -> list[NodeState]:
        if not self.known:
            raise CodedError(ErrorCode.UNAVAILABLE, private="the fleet is not known yet")
        model, org_id, region = place
        pool = policy.candidates(list(self._nodes.values()), model, org_id, region)
        self._pools[place] = pool
        if len(self._pools) > MAX_PLACES:
            self._pools.popitem(last=False)
        return pool

    def _take(self, target: dict[str, NodeState], node: registry_pb.Node) -> None:
        if node.status != registry_pb.NODE_STATUS_ACTIVE:
            if target.pop(node.id, None) is not None:
                self._pools.clear()
            return
        facts = node.facts
        known = target.get(node.id)
        models = frozenset(facts.models)
        if known is None or not _same_place(known, node, models):
            target[node.id] = NodeState(
                id=node.id,
                address=facts.address,
                region=facts.region,
                org_id=node.org_id,
                models=models,
                reachable=node.reachable,
                max_tokens_per_sec=facts.max_tokens_per_sec,
                decode_tokens_per_sec=facts.decode_tokens_per_sec,
                current_tokens_per_sec=node.load.current_tokens_per_sec,
                waiting=node.load.waiting,
            )
            self._pools.clear()
            return
        known.max_tokens_per_sec = facts.max_tokens_per_sec
        known.decode_tokens_per_sec = facts.decode_tokens_per_sec
        known.current_tokens_per_sec = node.load.current_tokens_per_sec
        known.waiting = node.load.waiting
        known.assigned = 0


def _same_place(known: NodeState, node: registry_pb.Node, models: frozenset[str]) -> bool:
    return (
        known.address == node.facts.address
        and known.region == node.facts.region
        and known.org_id == node.org_id
        and known.models == models
        and known.reachable == node.reachable
    )
