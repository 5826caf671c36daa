"""Nodes among which a pick chooses."""

from crosslogic_scheduler.domain import NodeState, Strategy
from crosslogic_scheduler.ring import HashRing


class Pool:
    """Nodes in no order. Adding and removing cost the same for any size, unless the largest node leaves."""

    __slots__ = ("_positions", "_ring", "largest", "nodes", "strategy", "turn")

    def __init__(self, strategy: Strategy = Strategy.LEAST_LOAD) -> None:
        self.nodes: list[NodeState] = []
        self.largest = 0.0
        """The greatest capacity among the nodes."""
        self.strategy = strategy
        self.turn = 0
        """Whose turn it is, round robin."""
        self._positions: dict[str, int] = {}
        self._ring: HashRing | None = None

    def add(self, node: NodeState) -> None:
        """Adds a node that is not in it. Its capacity must not change while it is."""
        self._positions[node.id] = len(self.nodes)
        self.nodes.append(node)
        self.largest = max(self.largest, node.capacity)
        if self._ring is not None:
            self._ring.add(node)

    def remove(self, node: NodeState) -> None:
        """Removes a node that is in it; the last one takes its place."""
        position = self._positions.pop(node.id)
        last = self.nodes.pop()
        if last is not node:
            self.nodes[position] = last
            self._positions[last.id] = position
        if node.capacity == self.largest:
            self.largest = max((left.capacity for left in self.nodes), default=0.0)
        if self._ring is not None:
            self._ring.remove(node)

    def get(self, node_id: str) -> NodeState | None:
        """A node of it."""
        position = self._positions.get(node_id)
        return None if position is None else self.nodes[position]

    def ring(self) -> HashRing:
        """Its nodes by hash; made when the first session asks, kept up to date from then on."""
        if self._ring is None:
            self._ring = HashRing(self.nodes)
        return self._ring
