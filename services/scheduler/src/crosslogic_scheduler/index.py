"""Nodes by what requests ask for, kept as nodes come and go: a pick looks up a few lists, whatever the fleet's size."""

from collections.abc import Callable, Iterator

from crosslogic_scheduler.domain import NodeState, Strategy, Tier
from crosslogic_scheduler.pool import Pool
from crosslogic_scheduler.versions import Wanted

ANYWHERE = ""
ANYBODY = ""
Place = tuple[str, str, str]
"""Model, region (empty: any), organisation that the nodes are kept for (empty: shared nodes). The model as `versioned`
where nodes of one version are looked for."""
_OF_VERSION = "\0"


def _least_load(_model: str, _region: str) -> Strategy:
    return Strategy.LEAST_LOAD


class NodeIndex:
    """Pools by tier and place.

    An empty pool is dropped: there are at most four for each model of each node, its region's and anywhere's, of all
    versions and of its own.
    """

    def __init__(self, *, strategy_of: Callable[[str, str], Strategy] = _least_load) -> None:
        """`strategy_of` tells the strategy of a model in a region (empty: anywhere)."""
        self._strategy_of = strategy_of
        self._tiers: list[dict[Place, Pool]] = [{} for _ in Tier]

    def __len__(self) -> int:
        """Pools."""
        return sum(len(pools) for pools in self._tiers)

    @property
    def has_reserves(self) -> bool:
        """Whether any node is not in the first tier."""
        return bool(self._tiers[Tier.SPARED] or self._tiers[Tier.SILENT])

    def add(self, node: NodeState) -> None:
        """Adds a node. What decides where it is found must not change before it is removed."""
        pools = self._tiers[node.tier]
        for place in _all_places(node):
            pool = pools.get(place)
            if pool is None:
                pool = pools[place] = Pool(self._strategy_of(_model_of(place), place[1]))
            pool.add(node)

    def remove(self, node: NodeState) -> None:
        """Removes a node that was added."""
        pools = self._tiers[node.tier]
        for place in _all_places(node):
            pool = pools[place]
            pool.remove(node)
            if not pool.nodes:
                del pools[place]

    def pools(self, tier: Tier, model: str, org_id: str, region: str, wanted: Wanted | None = None) -> Iterator[Pool]:
        """The nodes of a tier that may serve, in the order in which they are to be tried.

        An organisation's own nodes come first: it pays for them. Then shared ones. Nodes of another organisation are in
        none. `wanted` names the versions of shared nodes; None: any.
        """
        pools = self._tiers[tier]
        if org_id != ANYBODY:
            own = model if wanted is None or not wanted.pinned else versioned(model, wanted.versions[0])
            pool = pools.get((own, region, org_id))
            if pool is not None:
                yield pool
        if wanted is None:
            pool = pools.get((model, region, ANYBODY))
            if pool is not None:
                yield pool
            return
        for version in wanted.versions:
            pool = pools.get((versioned(model, version), region, ANYBODY))
            if pool is not None:
                yield pool

    def pool(self, tier: Tier, place: Place) -> Pool | None:
        """The nodes of a tier at one place."""
        return self._tiers[tier].get(place)

    def refresh_strategies(self) -> None:
        """Asks for every pool's strategy anew."""
        for pools in self._tiers:
            for place, pool in pools.items():
                pool.strategy = self._strategy_of(_model_of(place), place[1])


def versioned(model: str, version: str) -> str:
    """The model as places name it where only nodes of one version are looked for."""
    return f"{model}{_OF_VERSION}{version}"


def _model_of(place: Place) -> str:
    return place[0].partition(_OF_VERSION)[0]


def _all_places(node: NodeState) -> Iterator[Place]:
    for model, region, org_id in places(node):
        yield model, region, org_id
        yield versioned(model, node.version), region, org_id


def places(node: NodeState) -> Iterator[Place]:
    """Where a node is found, whatever its version."""
    for model in node.models:
        yield model, ANYWHERE, node.org_id
        if node.region != ANYWHERE:
            yield model, node.region, node.org_id
