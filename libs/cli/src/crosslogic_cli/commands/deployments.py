"""Deployments: how many machines a model has at a place, and why."""

import math
from typing import Annotated, Any

import typer

from crosslogic_admin.client import Decision, ScaledDeployment
from crosslogic_cli.answers import show_answer, show_list
from crosslogic_cli.context import client_of, config_of, confirm, group
from crosslogic_cli.failure import CliError, ExitCode
from crosslogic_cli.output import console, show_json, show_one, show_rows

deployments = group(
    "deployments",
    "How many machines a model has at a place. Example: `crosslogic deployments create llama --region us-east --max 8`",
)

_DEPLOYMENT = (
    ("id", "id"),
    ("model", "model"),
    ("region", "region"),
    ("mode", "wishes.mode"),
    ("min", "wishes.min_nodes"),
    ("max", "wishes.max_nodes"),
    ("wanted", "decision.desired"),
    # Of the last decision that changed anything, not of now: that is what `plan` asks for.
    ("were there", "decision.kept"),
    ("decided", "decision.time"),
    ("spot share", "wishes.spot_share"),
    ("$/h at most", "wishes.max_usd_per_hour"),
)
_OFFER = (
    ("provider", "provider"),
    ("region", "region"),
    ("type", "instance_type"),
    ("spot", "use_spot"),
    ("$/h", "hourly_price_usd"),
    ("expected $/h", "expected_hourly_price_usd"),
    ("why", "placement_why"),
)
_SET = typer.Option("--set", help="any other wish by its name in the API: warm_spares=2; may be repeated")


@deployments.command("list")
def list_deployments(context: typer.Context) -> None:
    """List deployments with what was last decided."""
    show_list(context, lambda admin: admin.list_deployments()["data"], _DEPLOYMENT)


@deployments.command("create")
def create(
    context: typer.Context,
    model: str,
    region: Annotated[str, typer.Option(help="empty: wherever it is cheapest")] = "",
    least: Annotated[int, typer.Option("--min", help="machines that are always there")] = 0,
    most: Annotated[int, typer.Option("--max", help="machines at most")] = 1,
    spot_share: Annotated[float, typer.Option(help="the share that may be spot, 0 to 1")] = 0.0,
    max_usd: Annotated[str, typer.Option("--max-usd", help="dollars an hour at most; 0: no limit")] = "0",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="decide and write down, and do nothing")] = False,
    wishes: Annotated[list[str] | None, _SET] = None,
) -> None:
    """Say how many machines a model has at a place."""
    body: Any = {
        "model": model,
        "region": region,
        "min_nodes": least,
        "max_nodes": most,
        "spot_share": spot_share,
        "max_usd_per_hour": max_usd,
        "mode": "dry_run" if dry_run else "active",
        **_wishes(wishes),
    }
    show_answer(context, lambda admin: admin.create_deployment(body))


@deployments.command("update")
def update(context: typer.Context, deployment: str, wishes: Annotated[list[str] | None, _SET] = None) -> None:
    """Change what a deployment asks for: `--set max_nodes=8 --set mode=paused`. The rest stays."""
    with client_of(context) as client:
        known = _the(client.admin.list_deployments()["data"], deployment)
        body: Any = {**known["wishes"], **_wishes(wishes), "revision": known["revision"]}
        changed = client.admin.update_deployment(deployment, body)
    show_one(changed, as_json=config_of(context).as_json)


@deployments.command("delete")
def delete(context: typer.Context, deployment: str) -> None:
    """End a deployment; its machines are drained and ended."""
    confirm(context, f"The deployment {deployment} and its machines end for good.")
    show_answer(context, lambda admin: admin.delete_deployment(deployment))


@deployments.command("plan")
def plan(context: typer.Context, deployment: str) -> None:
    """Show what would be done now and why; changes nothing."""
    with client_of(context) as client:
        found = client.admin.plan_deployment(deployment)
    if config_of(context).as_json:
        show_json(found)
        return
    _tell(found["decision"])
    show_rows(found["offers"], _OFFER, as_json=False)


@deployments.command("explain")
def explain(context: typer.Context, deployment: str, count: Annotated[int, typer.Option(min=1, max=1000)] = 10) -> None:
    """Show the last decisions and their reasons, newest first."""
    with client_of(context) as client:
        found = client.admin.list_decisions(deployment, page_size=count)["data"]
    if config_of(context).as_json:
        show_json(found)
        return
    for decision in found:
        _tell(decision)


def _tell(decision: Decision) -> None:
    lines = [f"{decision['time']}: {decision['desired']} machines are wanted, {decision['kept']} are there"]
    lines += [f"  {need['signal']}: {need['nodes']}, {need['why']}" for need in decision["needs"]]
    for launch in decision["launches"]:
        place = "/".join(filter(None, (launch["provider"], launch["region"], launch["instance_type"])))
        lines.append(f"  + {place}{' (spot)' if launch['use_spot'] else ''}: {launch['why']}")
    lines += [f"  - {end['instance_id']}: {end['why']}" for end in decision["ends"]]
    lines += [f"  held: {held}" for held in decision["held"]]
    if decision["dry_run"]:
        lines.append("  nothing of it was done")
    console().print("\n".join(lines), markup=False, highlight=False)


def _wishes(pairs: list[str] | None) -> dict[str, Any]:
    """`name=value`: numbers and words as the API takes them. Raises CliError."""
    found: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise CliError(f"--set wants name=value, not {pair}.", ExitCode.USAGE)
        found[name] = _value(name, text)
    return found


def _value(name: str, text: str) -> Any:
    if name == "max_usd_per_hour":
        return text
    for parse in (int, float):
        try:
            number = parse(text)
        except ValueError:
            continue
        # JSON has no other numbers: what `nan` is meant to be, the API tells.
        return number if math.isfinite(number) else text
    return text


def _the(listed: list[ScaledDeployment], deployment: str) -> ScaledDeployment:
    for each in listed:
        if each["id"] == deployment:
            return each
    raise CliError(f"There is no deployment {deployment}.", ExitCode.NOT_FOUND)
