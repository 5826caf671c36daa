"""Consistent hashing: which node a session is at home on, whatever other nodes come and go."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from crosslogic_scheduler.domain import NodeState

POINTS_A_NODE = 64
"""Spreads sessions over nodes with a standard deviation of about 1 / sqrt(64), an eighth of the mean."""
_POINTS_A_DIGEST = 8


class HashRing:
    """Nodes at points on a circle of 64 bits; a key belongs to the first node at or after it."""

    def __init__(self, nodes: Iterable[NodeState]) -> None:
        owned = sorted(((point, node) for node in nodes for point in _points(node)), key=lambda each: each[0])
        self._points = [point for point, _ in owned]
        self._owners = [node for _, node in owned]

    def add(self, node: NodeState) -> None:
        """Adds a node that is not on it."""
        for point in _points(node):
            at = bisect_right(self._points, point)
            self._points.insert(at, point)
            self._owners.insert(at, node)

    def remove(self, node: NodeState) -> None:
        """Removes a node that is on it."""
        for point in _points(node):
            at = bisect_left(self._points, point)
            while self._owners[at] is not node:
                at += 1
            del self._points[at]
            del self._owners[at]

    def from_key(self, key: int) -> Iterator[NodeState]:
        """Nodes in the order in which `key` prefers them, each once."""
        size = len(self._points)
        start = bisect_left(self._points, key)
        seen: set[str] = set()
        for offset in range(size):
            node = self._owners[(start + offset) % size]
            if node.id not in seen:
                seen.add(node.id)
                yield node


def _points(node: NodeState) -> Iterator[int]:
    for number in range(POINTS_A_NODE // _POINTS_A_DIGEST):
        digest = blake2b(f"{number}/{node.id}".encode(), digest_size=8 * _POINTS_A_DIGEST).digest()
        for at in range(0, len(digest), 8):
            yield int.from_bytes(digest[at : at + 8], "little")
