"""Nodes by what requests ask for, kept as nodes come and go: a pick looks up two lists, whatever the fleet's size."""

from collections.abc import Iterator

from crosslogic_scheduler.domain import NodeState
from crosslogic_scheduler.pool import Pool

ANYWHERE = ""
ANYBODY = ""
Place = tuple[str, str, str]
"""Model, region (empty: any), organisation that the nodes are kept for (empty: shared nodes)."""


class NodeIndex:
    """Pools by place, reachable nodes apart from the others.

    An empty pool is dropped: there are at most two for each model of each node, its region's and anywhere's.
    """

    def __init__(self) -> None:
        self._reachable: dict[Place, Pool] = {}
        self._unreachable: dict[Place, Pool] = {}

    def __len__(self) -> int:
        """Pools."""
        return len(self._reachable) + len(self._unreachable)

    def add(self, node: NodeState) -> None:
        """Adds a node. What decides where it is found must not change before it is removed."""
        pools = self._pools_of(node)
        for place in _places(node):
            pool = pools.get(place)
            if pool is None:
                pool = pools[place] = Pool()
            pool.add(node)

    def remove(self, node: NodeState) -> None:
        """Removes a node that was added."""
        pools = self._pools_of(node)
        for place in _places(node):
            pool = pools[place]
            pool.remove(node)
            if not pool.nodes:
                del pools[place]

    def pools(self, model: str, org_id: str, region: str) -> Iterator[Pool]:
        """The nodes that may serve, in the order in which they are to be tried.

        An organisation's own nodes come first: it pays for them. Then shared ones. Unreachable ones last and not
        never: where none is reachable, it is likelier that the registry is cut off than that all are dead. Nodes of
        another organisation are in none.
        """
        own = (model, region, org_id)
        shared = (model, region, ANYBODY)
        for pools in (self._reachable, self._unreachable):
            if org_id != ANYBODY:
                pool = pools.get(own)
                if pool is not None:
                    yield pool
            pool = pools.get(shared)
            if pool is not None:
                yield pool

    def _pools_of(self, node: NodeState) -> dict[Place, Pool]:
        return self._reachable if node.reachable else self._unreachable


def _places(node: NodeState) -> Iterator[Place]:
    for model in node.models:
        yield model, ANYWHERE, node.org_id
        if node.region != ANYWHERE:
            yield model, node.region, node.org_id
