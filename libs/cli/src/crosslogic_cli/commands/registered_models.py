"""Models by environment: registered, enabled, promoted, rolled back."""

from typing import Annotated, Literal

import typer

from crosslogic_admin import rows
from crosslogic_cli.answers import show_answer, show_list
from crosslogic_cli.context import client_of, config_of, confirm
from crosslogic_cli.failure import CliError, ExitCode
from crosslogic_cli.output import show_json, show_one, show_rows

Environment = Literal["development", "staging", "production"]
_MODEL = (
    ("name", "name"),
    ("environment", "environment"),
    ("status", "status"),
    ("version", "version"),
    ("nodes", "serving_nodes"),
    ("of it", "version_nodes"),
    ("health", "health_time"),
    ("endpoint", "endpoint"),
    ("licence", "licence"),
)
_GATE = (("gate", "name"), ("passed", "passed"), ("why", "detail"))


def add_to(models: typer.Typer) -> None:
    """Adds the commands to the group `models`."""
    models.command("registered")(registered)
    models.command("show")(show)
    models.command("deregister")(deregister)
    models.command("enable")(enable)
    models.command("disable")(disable)
    models.command("promote")(promote)
    models.command("rollback")(rollback)


def registered(context: typer.Context) -> None:
    """List models by environment, with how they are."""
    show_list(context, lambda admin: rows(admin.list_registered_models), _MODEL)


def show(context: typer.Context, name: Annotated[str, typer.Argument(help="`model` or `model@environment`")]) -> None:
    """Show a registered model."""
    with client_of(context) as client:
        found = next((row for row in rows(client.admin.list_registered_models) if row["name"] == name), None)
    if found is None:
        raise CliError(f"{name} is not registered.", ExitCode.NOT_FOUND)
    show_one(found, as_json=config_of(context).as_json)


def deregister(context: typer.Context, name: str) -> None:
    """Take a model out of its environment; its nodes are left alone."""
    confirm(context, f"{name} is no longer offered.")
    show_answer(context, lambda admin: admin.deregister_model({"name": name}))


def enable(context: typer.Context, name: str) -> None:
    """Offer a model to clients."""
    show_answer(context, lambda admin: admin.enable_model({"name": name}))


def disable(context: typer.Context, name: str) -> None:
    """Offer a model no longer; what runs finishes."""
    show_answer(context, lambda admin: admin.disable_model({"name": name}))


def rollback(context: typer.Context, name: str) -> None:
    """Bring back the version that an environment had before, for machines launched from now on."""
    show_answer(context, lambda admin: admin.roll_back_model({"name": name}))


def promote(
    context: typer.Context,
    model: str,
    source: Annotated[Environment, typer.Option("--from")] = "staging",
    target: Annotated[Environment, typer.Option("--to")] = "production",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="look at the gates and change nothing")] = False,
) -> None:
    """Bring a version to another environment, if every gate is passed."""
    with client_of(context) as client:
        answer = client.admin.promote_model(
            {"model": model, "from_environment": source, "to_environment": target, "dry_run": dry_run}
        )
    if config_of(context).as_json:
        show_json(answer)
        return
    show_rows(answer["gates"], _GATE, as_json=False)
    if answer["model"]:
        show_one(answer["model"], as_json=False)
