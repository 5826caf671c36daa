"""`crosslogic`: the command line."""

import os
import sys
from typing import Annotated

import typer

from crosslogic_cli.commands import (
    billing,
    budgets,
    certs,
    deployments,
    doctor,
    fleet,
    model_store,
    notifications,
    registered_models,
    stored_models,
    tenants,
    top,
    upgrades,
    usage,
)
from crosslogic_cli.config import read_config
from crosslogic_cli.failure import CliError

app = typer.Typer(
    name="crosslogic",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Operate a CrossLogic inference cloud.\n\n"
    "The gateway's address and your token come from `CROSSLOGIC_BASE_URL` and `CROSSLOGIC_ADMIN_TOKEN`, or from "
    "`~/.config/crosslogic/config.toml`. After `make up`: `set -a; . .run/env; set +a`.\n\n"
    "Exit codes: 1 refused or failed, 2 wrong use, 3 not reachable, 4 not allowed, 5 not found.",
)
model_store.add_to(fleet.models)
stored_models.add_to(fleet.models)
registered_models.add_to(fleet.models)
for commands in (
    tenants.orgs,
    tenants.envs,
    tenants.keys,
    tenants.users,
    tenants.plans,
    fleet.models,
    fleet.nodes,
    fleet.instances,
    deployments.deployments,
    notifications.notifications,
    usage.usage,
    billing.billing,
    budgets.budgets,
    usage.audit,
    certs.certs,
):
    app.add_typer(commands)
fleet.models.command("upgrade")(upgrades.upgrade)
fleet.models.command("upgrades")(upgrades.list_upgrades)
fleet.models.command("upgrade-status")(upgrades.upgrade_status)
fleet.models.command("roll-back")(upgrades.roll_back)
app.command("chat")(usage.chat)
app.command("top")(top.top)
app.command("doctor")(doctor.doctor)


@app.callback()
def root(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="the gateway's address")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts")] = False,
    assume_yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask before something is destroyed")] = False,
) -> None:
    """Reads what every command needs."""
    context.obj = read_config(os.environ, base_url=url, as_json=as_json, assume_yes=assume_yes)


def main() -> None:
    """The process. A failure is one line and an exit code."""
    try:
        app()
    except CliError as error:
        sys.stderr.write(f"crosslogic: {error}\n")
        sys.exit(error.code)
    except BrokenPipeError:
        # Whoever read the output has gone: `crosslogic ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
