"""What was told to Stripe, and whether everybody's books agree."""

from itertools import islice
from typing import Annotated, Any, Literal

import typer

from crosslogic_admin import rows
from crosslogic_cli.answers import show_answer, show_list
from crosslogic_cli.context import client_of, config_of, group
from crosslogic_cli.failure import CliError
from crosslogic_cli.output import show_json, show_rows

billing = group("billing", "Stripe and the books. Example: `crosslogic billing reconcile --from 2026-11-01`")

_RUN = (
    ("id", "id"),
    ("from", "from_day"),
    ("to", "to_day"),
    ("unexplained", "unexplained"),
    ("missing", "missing"),
    ("signed by", "signed_by"),
)
_LINE = (
    ("what", "what"),
    ("org", "org_id"),
    ("category", "category"),
    ("unit", "unit"),
    ("left", "left"),
    ("right", "right"),
    ("explained by", "explanation"),
    ("unexplained", "unexplained"),
)
_EVENT = (
    ("id", "id"),
    ("org", "org_id"),
    ("event", "event_name"),
    ("value", "value"),
    ("window", "window_start"),
    ("state", "state"),
    ("attempts", "attempts"),
    ("last error", "last_error"),
)


@billing.command("reconcile")
def reconcile(
    context: typer.Context,
    from_day: Annotated[str, typer.Option("--from", help="a day such as 2026-11-01; empty: as long as usual")] = "",
    to_day: Annotated[str, typer.Option("--to", help="a day, not included")] = "",
) -> None:
    """Compare ledger, books and Stripe now. Ends with code 1 where a difference has no explanation."""
    body: Any = {name: day for name, day in (("from_day", from_day), ("to_day", to_day)) if day}
    with client_of(context) as client:
        found = client.admin.reconcile(body)
    if config_of(context).as_json:
        show_json(found)
    else:
        show_rows([found], _RUN, as_json=False)
        show_rows(found["lines"], _LINE, as_json=False)
    if found["unexplained"]:
        raise CliError(f"{found['unexplained']} differences have no explanation (docs/runbook.md).")


@billing.command("reconciliations")
def list_reconciliations(
    context: typer.Context, most: Annotated[int, typer.Option(min=1, help="how many")] = 20
) -> None:
    """List reconciliations, newest first."""
    show_list(context, lambda admin: islice(rows(admin.list_reconciliations), most), _RUN)


@billing.command("sign-off")
def sign_off(
    context: typer.Context,
    reconciliation: str,
    by: Annotated[str, typer.Option(help="who answers for it")],
    note: Annotated[str, typer.Option()] = "",
) -> None:
    """Say that somebody has looked at a reconciliation."""
    show_answer(context, lambda admin: admin.sign_off_reconciliation(reconciliation, {"signed_by": by, "note": note}))


@billing.command("events")
def list_events(
    context: typer.Context,
    state: Annotated[Literal["dead", "delivered", "pending", "any"], typer.Option()] = "dead",
    org: Annotated[str | None, typer.Option()] = None,
    most: Annotated[int, typer.Option(min=1, help="how many")] = 50,
) -> None:
    """List events for Stripe; those that it refused for good unless another state is asked for."""
    show_list(context, lambda admin: islice(rows(admin.list_meter_events, state=state, org_id=org), most), _EVENT)


@billing.command("replay")
def replay(context: typer.Context, event: str) -> None:
    """Send an event that Stripe refused again, under the same identifier: it is never counted twice."""
    show_answer(context, lambda admin: admin.replay_meter_event(event))
