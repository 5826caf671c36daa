"""Nodes among which a pick chooses."""

from crosslogic_scheduler.domain import NodeState


class Pool:
    """Nodes in no order. Adding and removing cost the same for any size, unless the largest node leaves."""

    __slots__ = ("_positions", "largest", "nodes")

    def __init__(self) -> None:
        self.nodes: list[NodeState] = []
        self.largest = 0.0
        """The greatest capacity among the nodes."""
        self._positions: dict[str, int] = {}

    def add(self, node: NodeState) -> None:
        """Adds a node that is not in it. Its capacity must not change while it is."""
        self._positions[node.id] = len(self.nodes)
        self.nodes.append(node)
        self.largest = max(self.largest, node.capacity)

    def remove(self, node: NodeState) -> None:
        """Removes a node that is in it; the last one takes its place."""
        position = self._positions.pop(node.id)
        last = self.nodes.pop()
        if last is not node:
            self.nodes[position] = last
            self._positions[last.id] = position
        if node.capacity == self.largest:
            self.largest = max((left.capacity for left in self.nodes), default=0.0)
