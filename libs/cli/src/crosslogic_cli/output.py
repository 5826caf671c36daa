"""Tables for people, JSON for scripts."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Column = tuple[str, str]
"""Heading, and the path of the value: `load.running`."""
_WIDE = 1_000
_LARGE = 100.0
"""From here on a number is shown to a tenth; below, by its first three digits."""


def console() -> Console:
    """Where tables go. A file or a pipe has no width, so that nothing is folded there."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE
    return Console(soft_wrap=True, width=wide)


def show_json(value: Any) -> None:
    """JSON, one document, two spaces."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def show_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], *, as_json: bool) -> None:
    """A list."""
    found = list(rows)
    if as_json:
        show_json(found)
        return
    if not found:
        console().print("[dim]nothing there[/dim]")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, path in columns:
        # Ids are copied: they are shown whole, whatever else must be folded.
        least = max(len(text_of(value_at(row, path))) for row in found) if path == "id" else None
        table.add_column(heading, overflow="fold", min_width=least)
    for row in found:
        table.add_row(*(text_of(value_at(row, path)) for _, path in columns))
    console().print(table)


def show_one(row: Mapping[str, Any], *, as_json: bool) -> None:
    """A single thing, a field a line."""
    if as_json:
        show_json(row)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in row.items():
        table.add_row(name, text_of(value))
    console().print(table)


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    value: Any = row
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def text_of(value: Any) -> str:
    """A value as people read it. Markup in it stays text."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        # Shares and rates are small: of 0.85, rounded to a tenth, nobody would know what was asked for.
        return f"{value:,.1f}" if abs(value) >= _LARGE else f"{value:.3g}"
    if isinstance(value, list):
        shown = ", ".join(text_of(each) for each in value) or "-"
    elif isinstance(value, Mapping):
        shown = ", ".join(f"{name}={text_of(each)}" for name, each in value.items() if each not in (None, "")) or "-"
    else:
        shown = str(value)
    return shown.replace("[", r"\[")
