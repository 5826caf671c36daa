"""The autoscaler on a day with a burst of ten times the load that nobody foresees: what it keeps, what it costs."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.autoscale_simulation import (
    PLACES,
    SLO_S,
    TICK_S,
    WINDOW_S,
    Outcome,
    Shape,
    World,
    by_oracle,
    by_policy,
    requests,
    shorter,
    usual_hours,
)
from benchmarks.table import RESULTS, Budget, Figure
from crosslogic_orchestrator.scaling.domain import Deployment

COLD_START_S = 120.0
"""From the request to the first answer: a machine with its weights at hand."""
SHARE = 0.99
DEPLOYMENT = Deployment(id="benchmark", model="m", region="anywhere", min_nodes=1, max_nodes=60)
PLOT = "autoscale.svg"
_WIDE, _HIGH, _EDGE = 1_000, 260, 50
_BARS = " ▁▂▃▄▅▆▇█"


def autoscale(*, hours: float) -> list[Figure]:
    """The first cold start is held to the budgets and drawn; a whole day is tried with slower ones too."""
    whole_day = hours >= 24
    shape = Shape() if whole_day else shorter(Shape(), hours)
    cold_starts_s = (COLD_START_S, 300.0) if whole_day else (COLD_START_S,)
    arrivals = requests(shape, seed=5)
    forecast = usual_hours(shape, days=7, seed=1)
    figures: list[Figure] = []
    for cold_start_s in cold_starts_s:
        judged = cold_start_s == cold_starts_s[0]
        world = World(arrivals, shape.hours * 3600, cold_start_s)
        oracle = by_oracle(world, share=SHARE)
        seen = by_policy(world, DEPLOYMENT, forecast=forecast)
        figures += _figures(seen, oracle, shape, cold_start_s=cold_start_s, judged=judged)
        if judged:
            _draw(seen, oracle, RESULTS / PLOT, hours=shape.hours)
            print(f"machines, {shape.hours:g} h, from 0 to {max(seen.most_machines, oracle.most_machines)}:")
            for name, outcome in (("autoscaler", seen), ("oracle", oracle)):
                most = max(seen.most_machines, oracle.most_machines)
                print(f"  {name:<10} {_bars(outcome.machines, most=most)}")
    return figures


def _figures(seen: Outcome, oracle: Outcome, shape: Shape, *, cold_start_s: float, judged: bool) -> list[Figure]:
    detail = {
        "hours": shape.hours,
        "burst": shape.burst,
        "burst_lasts_s": shape.burst_lasts_s,
        "cold_start_s": cold_start_s,
        "requests_a_second": shape.per_s,
        "slo_s": SLO_S,
        "window_s": WINDOW_S,
        "places_a_machine": PLACES,
        "machine_hours": round(seen.machine_seconds / 3600, 1),
        "oracle_machine_hours": round(oracle.machine_seconds / 3600, 1),
        "oracle_below_slo": oracle.below_slo,
        "most_machines": seen.most_machines,
        "oracle_most_machines": oracle.most_machines,
        "launches": seen.launches,
        "requests_in_time": seen.requests_in_time,
    }
    name = f"autoscaler, {shape.hours:g} h with a burst x{shape.burst:g}, cold start {cold_start_s:g} s"
    return [
        Figure(
            f"{name}, time below the SLO",
            100 * seen.below_slo,
            "%",
            Budget(100 * SHARE, at_most=False) if judged else None,
            detail,
        ),
        Figure(
            f"{name}, cost over an oracle's",
            seen.machine_seconds / oracle.machine_seconds,
            "x",
            Budget(1.3) if judged else None,
            detail,
        ),
    ]


def _bars(machines: Sequence[int], *, most: int, columns: int = 96) -> str:
    step = max(1, len(machines) // columns)
    highest = [max(machines[at : at + step]) for at in range(0, len(machines), step)]
    return "".join(_BARS[round(count / most * (len(_BARS) - 1))] for count in highest)


def _draw(seen: Outcome, oracle: Outcome, file: Path, *, hours: float) -> None:
    """Machines above, the 95th percentile of the time to the first token below."""
    most = max(seen.most_machines, oracle.most_machines)
    slowest = max(2 * SLO_S, *(min(value, 60.0) for value in seen.p95_s))
    end_s = hours * 3600
    machines = "".join(
        _line([(n * TICK_S / end_s, count / most) for n, count in enumerate(outcome.machines)], colour, top=_EDGE)
        for outcome, colour in ((oracle, "#999999"), (seen, "#0b6e4f"))
    )
    below = _EDGE * 2 + _HIGH
    waits = [(n * WINDOW_S / end_s, min(value, 60.0) / slowest) for n, value in enumerate(seen.p95_s)]
    slo = [(0.0, SLO_S / slowest), (1.0, SLO_S / slowest)]
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDE + 2 * _EDGE}" height="{2 * _HIGH + 3 * _EDGE}" '
        'font-family="sans-serif" font-size="14">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="{_EDGE}" y="{_EDGE - 12}">machines over {hours:g} h, at most {most}: autoscaler green, oracle grey'
        "</text>\n"
        f"{machines}"
        f'<text x="{_EDGE}" y="{below - 12}">p95 of the time to the first token, 0 to {slowest:.0f} s; the SLO of '
        f"{SLO_S:g} s in red</text>\n"
        f"{_line(waits, '#0b6e4f', top=below)}{_line(slo, '#c1121f', top=below)}</svg>\n"
    )
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _line(points: Sequence[tuple[float, float]], colour: str, *, top: int) -> str:
    """Both coordinates from 0 to 1. Points in the middle of a level stretch are left out."""
    bends = [
        point
        for n, point in enumerate(points)
        if n in (0, len(points) - 1) or not points[n - 1][1] == point[1] == points[n + 1][1]
    ]
    drawn = " ".join(f"{_EDGE + x * _WIDE:.1f},{top + (1 - y) * _HIGH:.1f}" for x, y in bends)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.2" points="{drawn}"/>\n'
