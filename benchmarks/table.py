"""The rows: what each figure is, and what it may be."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import Machine

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a figure must reach."""

    limit: float
    at_most: bool = True

    def met(self, value: float) -> bool:
        """Whether `value` reaches it."""
        return value <= self.limit if self.at_most else value >= self.limit

    def text(self) -> str:
        """For the table."""
        return f"{'≤' if self.at_most else '≥'} {self.limit:,.10g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str
    budget: Budget | None = None
    detail: Mapping[str, object] = field(default_factory=dict)
    """What else was seen, for the results' file."""

    def verdict(self) -> str:
        """Whether it is within its budget."""
        if self.budget is None:
            return ""
        return "ok" if self.budget.met(self.value) else "OVER"


def print_table(figures: Sequence[Figure], machine: Machine, notes: Sequence[str]) -> None:
    """One table for a terminal."""
    rows = [("figure", "measured", "budget", "unit", "")]
    for figure in figures:
        budget = figure.budget.text() if figure.budget is not None else "-"
        rows.append((figure.name, _number(figure.value), budget, figure.unit, figure.verdict()))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    print()
    for at, row in enumerate(rows):
        name, value, budget, unit, verdict = row
        print(
            f"{name:<{widths[0]}}  {value:>{widths[1]}}  {budget:>{widths[2]}}  {unit:<{widths[3]}}  {verdict}".rstrip()
        )
        if at == 0:
            print("  ".join("-" * width for width in widths).rstrip())
    print(f"\nPython {machine.python} ({machine.python_build})")
    print(f"{machine.cpu}, {machine.cores} cores, Linux {machine.kernel}")
    for note in notes:
        print(f"note: {note}")


def write_results(
    figures: Sequence[Figure], machine: Machine, notes: Sequence[str], options: Mapping[str, object]
) -> Path:
    """Writes one file a run, and `latest.json`."""
    now = datetime.now(UTC)
    report = {
        "time": now.isoformat(timespec="seconds"),
        "machine": machine.as_json(),
        "options": dict(options),
        "notes": list(notes),
        "figures": [
            {**asdict(figure), "met": figure.budget.met(figure.value) if figure.budget is not None else None}
            for figure in figures
        ],
    }
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    file.write_text(text)
    (RESULTS / "latest.json").write_text(text)
    return file


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
