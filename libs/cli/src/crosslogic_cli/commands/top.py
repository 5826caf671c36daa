"""The fleet, live."""

import time
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from crosslogic_admin import rows
from crosslogic_cli.client import Client
from crosslogic_cli.context import client_of, config_of
from crosslogic_cli.output import console, show_json, text_of, value_at

_COLUMNS = (
    ("node", "id"),
    ("status", "status"),
    ("model", "models"),
    ("region", "region"),
    ("running", "running"),
    ("waiting", "waiting"),
    ("KV cache", "kv_cache_usage"),
    ("tokens/s", "current_tokens_per_sec"),
    ("of", "max_tokens_per_sec"),
)


def top(
    context: typer.Context,
    every_s: Annotated[float, typer.Option("--every", help="seconds between two looks")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="look once")] = False,
) -> None:
    """Show the fleet as it is now, again and again."""
    with client_of(context) as client:
        if config_of(context).as_json:
            show_json(list(rows(client.admin.list_nodes)))
            return
        if once:
            console().print(_table(client))
            return
        with Live(_table(client), console=console(), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every_s)
                live.update(_table(client), refresh=True)


def _table(client: Client) -> Table:
    nodes = [node for node in rows(client.admin.list_nodes) if node["status"] != "dead"]
    nodes.sort(key=lambda node: -float(value_at(node, "running") or 0))
    table = Table(
        title=f"{len(nodes)} nodes, {sum(value_at(node, 'running') or 0 for node in nodes)} requests", box=None
    )
    for heading, _ in _COLUMNS:
        table.add_column(
            heading, justify="right" if heading in ("running", "waiting", "KV cache", "tokens/s", "of") else "left"
        )
    for node in nodes:
        table.add_row(*(_cell(path, value_at(node, path)) for _, path in _COLUMNS))
    return table


def _cell(path: str, value: object) -> str:
    if path == "kv_cache_usage" and isinstance(value, int | float):
        return f"{value:.0%}"
    if path == "id":
        return str(value)[-12:]
    return text_of(value)
