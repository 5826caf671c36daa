"""Notifications: who is told what happened, and what became of it."""

import sys
from typing import Annotated, Any

import typer

from crosslogic_admin import rows
from crosslogic_cli.answers import show_answer, show_list
from crosslogic_cli.context import client_of, config_of, confirm, group
from crosslogic_cli.failure import CliError, ExitCode
from crosslogic_cli.output import show_one

notifications = group(
    "notifications",
    "Who is told what happened. Example: `crosslogic notifications create pager slack - --kind node_lost < url.txt`",
)

_ROUTE = (
    ("id", "id"),
    ("of", "org_id"),
    ("name", "name"),
    ("channel", "channel"),
    ("target", "shown_target"),
    ("kinds", "kinds"),
    ("from", "min_severity"),
    ("enabled", "enabled"),
)
_DELIVERY = (
    ("id", "id"),
    ("route", "route_id"),
    ("kind", "kind"),
    ("events", "count"),
    ("state", "state"),
    ("attempts", "attempts"),
    ("error", "last_error"),
    ("made", "create_time"),
)
_ORG = typer.Option("--org", help="an organisation's; empty: everybody's, for operators")
_KIND = typer.Option("--kind", help="which events; may be repeated; none: all")
_QUIET = typer.Option("--quiet", help="22:00-07:00, or 22:00-07:00@Asia/Kolkata: held until they are over")


@notifications.command("routes")
def list_routes(context: typer.Context, org: Annotated[str, _ORG] = "") -> None:
    """List who is told what."""
    show_list(context, lambda admin: rows(admin.list_notification_routes, org_id=org), _ROUTE)


@notifications.command("create")
def create(
    context: typer.Context,
    name: str,
    channel: Annotated[str, typer.Argument(help="slack, discord, email or webhook")],
    target: Annotated[str, typer.Argument(help="an URL or an address of mail; `-`: the first line of standard input")],
    org: Annotated[str, _ORG] = "",
    kinds: Annotated[list[str] | None, _KIND] = None,
    least: Annotated[str, typer.Option("--from", help="the least severity: info, warning or critical")] = "info",
    quiet: Annotated[str, _QUIET] = "",
) -> None:
    """Say who is told what happened; what signs a webhook is shown this once."""
    body: Any = {
        "name": name,
        "channel": channel,
        "target": sys.stdin.readline().strip() if target == "-" else target,
        "org_id": org,
        "kinds": kinds or [],
        "min_severity": least,
        "quiet_hours": _quiet(quiet),
    }
    show_answer(context, lambda admin: admin.create_notification_route(body))


@notifications.command("enable")
def enable(context: typer.Context, route: str) -> None:
    """Tell a route what happens from now on."""
    show_answer(context, lambda admin: admin.update_notification_route(route, {"enabled": True}))


@notifications.command("disable")
def disable(context: typer.Context, route: str) -> None:
    """Tell a route nothing more; what waits for it is dropped."""
    show_answer(context, lambda admin: admin.update_notification_route(route, {"enabled": False}))


@notifications.command("rotate-secret")
def rotate_secret(context: typer.Context, route: str) -> None:
    """Make a new secret, which is shown this once; for a day the old one signs as well."""
    show_answer(context, lambda admin: admin.update_notification_route(route, {"rotate_secret": True}))


@notifications.command("delete")
def delete(context: typer.Context, route: str) -> None:
    """End a route."""
    confirm(context, f"The route {route} ends for good, and what waits for it is dropped.")
    show_answer(context, lambda admin: admin.delete_notification_route(route))


@notifications.command("test")
def try_route(context: typer.Context, route: str) -> None:
    """Send a test now. Exit code 1: it was not taken."""
    with client_of(context) as client:
        tried = client.admin.test_notification_route(route)
    if not tried["sent"]:
        raise CliError(tried["error"] or "It was not taken.")
    show_one(tried, as_json=config_of(context).as_json)


@notifications.command("deliveries")
def list_deliveries(
    context: typer.Context,
    org: Annotated[str, _ORG] = "",
    route: Annotated[str, typer.Option(help="one route's")] = "",
    state: Annotated[str | None, typer.Option(help="pending, sent, dead or dropped")] = None,
) -> None:
    """List messages and what became of them, newest first: `--state dead` lists dead letters."""
    show_list(
        context,
        lambda admin: rows(admin.list_notification_deliveries, org_id=org, route_id=route, state=state),
        _DELIVERY,
    )


@notifications.command("replay")
def replay(context: typer.Context, delivery: str) -> None:
    """Send a dead letter again, under the id it has."""
    show_answer(context, lambda admin: admin.replay_notification_delivery(delivery))


def _quiet(text: str) -> dict[str, str] | None:
    """`22:00-07:00@Asia/Kolkata` as the API takes it. Raises CliError."""
    if not text:
        return None
    hours, _, zone = text.partition("@")
    start, dash, end = hours.partition("-")
    if not dash:
        raise CliError(f"--quiet wants 22:00-07:00, not {text}.", ExitCode.USAGE)
    return {"start": start, "end": end, "time_zone": zone or "UTC"}
