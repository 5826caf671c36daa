"""What most commands do: ask the admin API one thing and show the answer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import typer

from crosslogic_admin import AdminClient
from crosslogic_cli.context import client_of, config_of
from crosslogic_cli.output import Column, show_one, show_rows


def show_answer(context: typer.Context, ask: Callable[[AdminClient], Mapping[str, Any]]) -> None:
    """Asks and shows a single thing."""
    with client_of(context) as client:
        show_one(ask(client.admin), as_json=config_of(context).as_json)


def show_list(
    context: typer.Context, ask: Callable[[AdminClient], Iterable[Mapping[str, Any]]], columns: Sequence[Column]
) -> None:
    """Asks and shows a list."""
    with client_of(context) as client:
        show_rows(ask(client.admin), columns, as_json=config_of(context).as_json)
