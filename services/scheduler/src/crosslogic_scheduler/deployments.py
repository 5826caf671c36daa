"""Which strategy picks the nodes of which model where, by the catalogue."""

from collections.abc import Callable, Iterable

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_scheduler.domain import Strategy

_STRATEGIES = {
    registry_pb.PICK_STRATEGY_LEAST_LOAD: Strategy.LEAST_LOAD,
    registry_pb.PICK_STRATEGY_ROUND_ROBIN: Strategy.ROUND_ROBIN,
    registry_pb.PICK_STRATEGY_LEAST_CONNECTIONS: Strategy.LEAST_CONNECTIONS,
    registry_pb.PICK_STRATEGY_LEAST_LATENCY: Strategy.LEAST_LATENCY,
    registry_pb.PICK_STRATEGY_PREFIX_AFFINITY: Strategy.PREFIX_AFFINITY,
}


class Deployments:
    """The strategies that are not the default. Kept while the registry is away."""

    def __init__(self, *, code_of: Callable[[str], str]) -> None:
        """`code_of` gives the code of a region's name."""
        self._code_of = code_of
        self._strategies: dict[tuple[str, str], Strategy] = {}

    def replace(self, models: Iterable[registry_pb.Model]) -> bool:
        """Takes the whole catalogue. Whether a strategy changed. One of a newer contract counts as the default."""
        strategies = {
            (model.name, self._code_of(deployment.region)): _STRATEGIES.get(deployment.strategy, Strategy.LEAST_LOAD)
            for model in models
            for deployment in model.deployments
        }
        changed = strategies != self._strategies
        self._strategies = strategies
        return changed

    def strategy(self, model: str, region: str) -> Strategy:
        """How nodes of a model are chosen in a region (empty: anywhere)."""
        found = self._strategies.get((model, region))
        return found or self._strategies.get((model, ""), Strategy.LEAST_LOAD)
