"""The lanes of the fleet: the nodes behind each, and what every gateway uses of them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_scheduler.domain import NodeState
from crosslogic_scheduler.lanes.shares import Capacity, Use, serverless_slots, share
from crosslogic_scheduler.lanes.slots import Report, Slots
from crosslogic_scheduler.policy import capacity_of

MAX_DEDICATED = 1_000
LOOK_AGAIN_S = 0.1
"""Adding a large fleet up takes a millisecond, and gateways ask many times a second."""
MAX_REMEMBERED = 8_192
MAX_COMPARED = 64
PICKED_S = 0.25
"""A gateway has told of a request by then. Until it is over it may count twice, which only spreads requests more."""


class Lane(NamedTuple):
    """What requests ask for."""

    model: str
    region: str
    """Empty: anywhere."""
    org_id: str
    """Whose own nodes they are. Empty: shared ones."""


@dataclass(slots=True)
class _Node:
    models: frozenset[str]
    region: str
    org_id: str
    reachable: bool
    tokens_per_s: float
    slots: Slots
    heartbeat_ns: int = 0
    in_flight: int = 0
    """Of all gateways, as they told."""
    picked: int = 0
    """Requests sent there that no gateway has told of yet."""
    picked_until: float = 0.0
    """By then they are told of, or never started."""

    def taken(self, now: float) -> int:
        """Places that are taken."""
        return self.in_flight + self.picked if now < self.picked_until else self.in_flight

    def pick(self, now: float) -> None:
        """One more request is on its way."""
        self.picked = self.picked + 1 if now < self.picked_until else 1
        self.picked_until = now + PICKED_S


class Gateway:
    """One gateway worker, for as long as its stream lasts."""

    __slots__ = ("lanes", "nodes")

    def __init__(self) -> None:
        self.lanes: frozenset[Lane] = frozenset()
        self.nodes: Mapping[str, int] = {}
        """Requests under way for it, by node."""


@dataclass(frozen=True, slots=True)
class _Fleet:
    """What was found of a lane's nodes, for a moment."""

    capacity: Capacity | None
    dedicated: tuple[str, ...]
    until: float


class Lanes:
    """Answers how much of a lane a gateway may use."""

    def __init__(
        self,
        *,
        code_of: Callable[[str], str],
        now: Callable[[], float],
        sample: Callable[[Sequence[NodeState], int], Sequence[NodeState]],
    ) -> None:
        """`code_of` gives the one name of a region, `now` seconds that never go back, `sample` some at random."""
        self._sample = sample
        self._code_of = code_of
        self._now = now
        self._nodes: dict[str, _Node] = {}
        self._gateways: set[Gateway] = set()
        self._uses: dict[Lane, dict[Gateway, Use]] = {}
        self._fleets: dict[Lane, _Fleet] = {}
        self._arriving: set[str] | None = None

    def __len__(self) -> int:
        """Gateway workers that tell of their use."""
        return len(self._gateways)

    # --- the fleet

    def apply(self, message: registry_pb.WatchNodesResponse) -> None:
        """Takes a message of the registry's watch."""
        if message.snapshot_start:
            self._arriving = set()
        for node in message.nodes:
            self._take(node)
        for node_id in message.removed_node_ids:
            self._nodes.pop(node_id, None)
        if self._arriving is not None:
            self._arriving.update(node.id for node in message.nodes)
            if message.snapshot_complete:
                for node_id in self._nodes.keys() - self._arriving:
                    del self._nodes[node_id]
                self._arriving = None

    def _take(self, node: registry_pb.Node) -> None:
        if node.status != registry_pb.NODE_STATUS_ACTIVE:
            self._nodes.pop(node.id, None)
            return
        facts = node.facts
        known = self._nodes.get(node.id)
        slots = Slots(facts.max_sequences) if known is None else known.slots
        slots.told = facts.max_sequences
        fresh = self._nodes[node.id] = _Node(
            models=frozenset(facts.models),
            region=self._code_of(facts.region),
            org_id=node.org_id,
            reachable=node.reachable,
            tokens_per_s=capacity_of(facts.max_tokens_per_sec),
            slots=slots,
            heartbeat_ns=node.last_heartbeat_time.ToNanoseconds(),
            in_flight=0 if known is None else known.in_flight,
            picked=0 if known is None else known.picked,
            picked_until=0.0 if known is None else known.picked_until,
        )
        if known is None or known.heartbeat_ns != fresh.heartbeat_ns:
            load = node.load
            slots.take(Report(load.running, load.waiting, load.kv_cache_usage))

    # --- the gateways

    def join(self) -> Gateway:
        """A gateway worker is there."""
        gateway = Gateway()
        self._gateways.add(gateway)
        return gateway

    def leave(self, gateway: Gateway) -> None:
        """It is gone, and so is what it used."""
        self._gateways.discard(gateway)
        self.tell(gateway, {}, {})

    def tell(self, gateway: Gateway, uses: Mapping[Lane, Use], nodes: Mapping[str, int]) -> None:
        """All that a gateway uses now: lanes, and requests under way by node."""
        for node_id in gateway.nodes.keys() | nodes.keys():
            node = self._nodes.get(node_id)
            if node is not None:
                node.in_flight = max(0, node.in_flight + nodes.get(node_id, 0) - gateway.nodes.get(node_id, 0))
        gateway.nodes = nodes
        for lane in gateway.lanes - uses.keys():
            users = self._uses[lane]
            del users[gateway]
            if not users:
                del self._uses[lane]
        for lane, use in uses.items():
            self._uses.setdefault(lane, {})[gateway] = use
        gateway.lanes = frozenset(uses)

    def limit(self, gateway: Gateway, lane: Lane) -> int | None:
        """How many requests without reserved capacity it may have under way. None: the nodes have not said."""
        capacity = self._fleet(lane).capacity
        if capacity is None:
            return None
        uses = self._uses.get(lane, {})
        others = [use for other, use in uses.items() if other is not gateway]
        mine = uses.get(gateway, Use())
        room = serverless_slots(capacity, [mine, *others]) - self._used_across(lane, capacity)
        return share(room, mine, others)

    def dedicated(self, lane: Lane) -> tuple[str, ...]:
        """Organisations that have nodes of their own there."""
        return self._fleet(lane).dedicated

    def roomiest(self, nodes: Sequence[NodeState], excluded: Collection[str]) -> NodeState | None:
        """The node with the most free places, for a request that must not wait. None: not known for any of them.

        Of a large pool some drawn at random are looked at.
        """
        now = self._now()
        best: NodeState | None = None
        chosen: _Node | None = None
        most_free = 0.0
        for candidate in nodes if len(nodes) <= MAX_COMPARED else self._sample(nodes, MAX_COMPARED):
            node = self._nodes.get(candidate.id)
            slots = None if node is None else node.slots.known
            if node is None or slots is None or candidate.id in excluded:
                continue
            free = 1.0 - node.taken(now) / slots
            if best is None or free > most_free:
                best, chosen, most_free = candidate, node, free
        if chosen is not None:
            chosen.pick(now)
        return best

    def unless_full(self, node: NodeState, nodes: Sequence[NodeState], excluded: Collection[str]) -> NodeState:
        """The node, or if all its places are taken the one of `nodes` with the most free ones.

        A node's load is what it told some seconds ago; its places are counted as of now.
        """
        known = self._nodes.get(node.id)
        slots = None if known is None else known.slots.known
        if known is None or slots is None:
            return node
        now = self._now()
        if known.taken(now) + 1 > slots and len(nodes) > 1:
            return self.roomiest(nodes, excluded) or node
        known.pick(now)
        return node

    def saturation(self) -> Iterator[tuple[Lane, float]]:
        """Of each lane that is in use and whose places are known, the part that is taken."""
        for lane, uses in self._uses.items():
            capacity = self._fleet(lane).capacity
            if capacity is not None:
                taken = sum(use.in_flight + use.reserved_in_flight for use in uses.values())
                yield lane, taken / capacity.slots

    def _fleet(self, lane: Lane) -> _Fleet:
        now = self._now()
        fleet = self._fleets.get(lane)
        if fleet is None or fleet.until <= now:
            if len(self._fleets) >= MAX_REMEMBERED:
                self._fleets.clear()
            fleet = self._fleets[lane] = self._added_up(lane, now + LOOK_AGAIN_S)
        return fleet

    def _added_up(self, lane: Lane, until: float) -> _Fleet:
        there = [
            node for node in self._nodes.values() if lane.model in node.models and lane.region in ("", node.region)
        ]
        own = [node for node in there if node.org_id == lane.org_id]
        # Where all are silent the registry is cut off from them, and requests still go there.
        own = [node for node in own if node.reachable] or own
        known = [slots for node in own if (slots := node.slots.known) is not None]
        capacity = None
        if own and len(known) == len(own):
            capacity = Capacity(sum(known), sum(node.tokens_per_s for node in own))
        dedicated = () if lane.org_id else sorted({node.org_id for node in there if node.org_id})
        return _Fleet(capacity, tuple(dedicated[:MAX_DEDICATED]), until)

    def _used_across(self, lane: Lane, capacity: Capacity) -> float:
        """What the lanes that share nodes with this one use of them: "anywhere" uses all regions evenly."""
        if not lane.region:
            return sum(
                self._used(other)
                for other in self._uses
                if other.region and other.model == lane.model and other.org_id == lane.org_id
            )
        anywhere = lane._replace(region="")
        used = self._used(anywhere)
        if not used:
            return 0.0
        whole = self._fleet(anywhere).capacity
        return used * capacity.slots / whole.slots if whole is not None else float(used)

    def _used(self, lane: Lane) -> int:
        return sum(use.in_flight + use.reserved_in_flight for use in self._uses.get(lane, {}).values())
