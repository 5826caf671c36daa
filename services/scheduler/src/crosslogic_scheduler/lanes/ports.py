"""What picking asks of the lanes."""

from collections.abc import Collection, Sequence
from typing import Protocol

from crosslogic_scheduler.domain import NodeState


class Room(Protocol):
    """Who knows how many requests each node still takes."""

    def roomiest(self, nodes: Sequence[NodeState], excluded: Collection[str]) -> NodeState | None:
        """The node with the most free places, for a request that must not wait. None: not known for any of them."""

    def unless_full(self, node: NodeState, nodes: Sequence[NodeState], excluded: Collection[str]) -> NodeState:
        """The node, or if all its places are taken the one of `nodes` with the most free ones."""


class NoRoomKnown:
    """Nobody has told."""

    def roomiest(self, nodes: Sequence[NodeState], excluded: Collection[str]) -> NodeState | None:  # noqa: ARG002
        """Not known."""
        return None

    def unless_full(self, node: NodeState, nodes: Sequence[NodeState], excluded: Collection[str]) -> NodeState:  # noqa: ARG002
        """The node."""
        return node
