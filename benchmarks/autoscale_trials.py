"""`python -m benchmarks.autoscale_trials`: the autoscaler on many days, so that it is not tuned to one.

Eight shapes of a day, four times that a start takes, three seeds: the worst of the seeds is printed. Minutes on two
cores; the table goes to `benchmarks/results/`.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType

from benchmarks.autoscale_simulation import Shape, World, by_oracle, by_policy, requests, shorter, usual_hours
from benchmarks.table import RESULTS
from crosslogic_orchestrator.scaling.domain import Deployment

SHARE = 0.99
MOST_COST = 1.3
FILE = "autoscale-trials.txt"
DEPLOYMENT = Deployment(id="benchmark", model="m", region="anywhere", min_nodes=1, max_nodes=120)
DAY = Shape()
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "6 h, x10 for half an hour": shorter(DAY, 6),
        "24 h, x10 for half an hour": DAY,
        "24 h, x5 for half an hour": replace(DAY, burst=5.0),
        "24 h, x10 in the night": replace(DAY, burst_at_h=2.5),
        "24 h, x10 within five minutes": replace(DAY, burst_ramp_s=300.0),
        "24 h, x10 for five minutes": replace(DAY, burst_lasts_s=300.0),
        "24 h, x10 three times": replace(DAY, burst_at_h=4.0, again_at_h=(11.0, 20.5), burst_lasts_s=900.0),
        "24 h, no burst": replace(DAY, burst=1.0),
    }
)
STARTS_S = (30.0, 60.0, 120.0, 240.0)
SEEDS = (5, 6, 7)


@dataclass(frozen=True, slots=True)
class Trial:
    """One day."""

    name: str
    shape: Shape
    start_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of it."""

    below_slo: float
    cost: float
    """Over the oracle's."""
    most_machines: int
    oracle_machines: int


def tried(trial: Trial) -> Seen:
    """Simulates a day twice: the autoscaler's and the oracle's."""
    world = World(requests(trial.shape, seed=trial.seed), trial.shape.hours * 3600, trial.start_s)
    forecast = usual_hours(trial.shape, days=7, seed=trial.seed + 100)
    oracle = by_oracle(world, share=SHARE)
    seen = by_policy(world, DEPLOYMENT, forecast=forecast)
    return Seen(seen.below_slo, seen.machine_seconds / oracle.machine_seconds, seen.most_machines, oracle.most_machines)


def reachable(shape: Shape, start_s: float) -> float:
    """The share of the time that starts alone leave, where nobody foresees a step and no machine is idle before it."""
    if shape.burst <= 1 or shape.burst_ramp_s > 0:
        return 1.0
    return 1 - (1 + len(shape.again_at_h)) * min(start_s, shape.burst_lasts_s) / (shape.hours * 3600)


def line(trials: Sequence[Trial], seen: Sequence[Seen]) -> str:
    """The seeds of a shape and a start, the worst of them."""
    below, cost = min(each.below_slo for each in seen), max(each.cost for each in seen)
    limit = reachable(trials[0].shape, trials[0].start_s)
    met = below >= SHARE and cost <= MOST_COST
    verdict = "ok" if met else "MISSED" if limit >= SHARE else "MISSED, and cannot be met"
    machines = f"{max(each.most_machines for each in seen)}/{max(each.oracle_machines for each in seen)}"
    return (
        f"{trials[0].name:<30} {trials[0].start_s:>7.0f} {100 * limit:>11.2f} {100 * below:>9.2f} {cost:>6.3f} "
        f"{machines:>9}  {verdict}"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscale_trials", description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    trials = [
        [Trial(name, shape, start_s, seed) for seed in SEEDS] for name, shape in SHAPES.items() for start_s in STARTS_S
    ]
    bounds = f"at least {100 * SHARE:g} % of the time below the SLO, at most {MOST_COST:g} times the oracle's cost"
    lines = [
        f"{bounds}; the worst of the seeds {', '.join(map(str, SEEDS))}",
        f"{'load':<30} {'start s':>7} {'reachable %':>11} {'below %':>9} {'cost':>6} {'machines':>9}",
    ]
    print("\n".join(lines))
    with ProcessPoolExecutor(chosen.processes) as executor:
        seen = executor.map(tried, [trial for group in trials for trial in group])
        for group in trials:
            lines.append(line(group, [next(seen) for _ in group]))
            print(lines[-1], flush=True)
    (RESULTS / FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
