"""The strategies of picking, compared on a replayed trace."""

from collections.abc import Mapping

from benchmarks.pick_simulation import by_oracle, by_scheduler, fleet, requests_per_s
from benchmarks.pick_trace import Shape, trace
from benchmarks.table import Budget, Figure
from crosslogic.registry.v1 import registry_pb2 as pb

UTILISATION = 0.6
STRATEGIES: Mapping[str, pb.PickStrategy.ValueType] = {
    "least load": pb.PICK_STRATEGY_LEAST_LOAD,
    "round robin": pb.PICK_STRATEGY_ROUND_ROBIN,
    "least connections": pb.PICK_STRATEGY_LEAST_CONNECTIONS,
    "least latency": pb.PICK_STRATEGY_LEAST_LATENCY,
    "prefix affinity": pb.PICK_STRATEGY_PREFIX_AFFINITY,
}


def strategies(requests: int) -> list[Figure]:
    """`requests` requests on a fleet that grows with them, so that the trace lasts a few minutes."""
    size = max(16, requests // 400)
    arrivals = list(trace(Shape(), per_s=requests_per_s(fleet(size), UTILISATION), requests=requests, seed=3))

    seen = {"oracle": by_oracle(arrivals, fleet(size))}
    seen |= {name: by_scheduler(arrivals, fleet(size), strategy) for name, strategy in STRATEGIES.items()}
    seen["sessions"] = by_scheduler(arrivals, fleet(size), pb.PICK_STRATEGY_LEAST_LOAD, sessions=True)
    figures: list[Figure] = []
    for name, outcome in seen.items():
        detail = {"nodes": size, "requests": requests, "lasts_s": round(arrivals[-1].at_s)}
        figures += [
            Figure(f"first token, {size} nodes, {name}", outcome.mean_first_token_ms, "ms", None, detail),
            Figure(f"first token p99, {name}", outcome.p99_first_token_ms, "ms", None, detail),
            Figure(f"prompt tokens found cached, {name}", 100 * outcome.cached_share, "%", None, detail),
        ]
    best = seen["oracle"].mean_first_token_ms
    for name, budget in (("least load", 4.0), ("prefix affinity", 2.5)):
        ratio = seen[name].mean_first_token_ms / best
        figures.append(Figure(f"first token, {name} over oracle", ratio, "x", Budget(budget)))
    return figures
