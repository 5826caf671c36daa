"""Usage, the audit log, and a word with a model."""

import sys
from itertools import islice
from typing import Annotated

import typer

from crosslogic_admin import rows
from crosslogic_cli.answers import show_list
from crosslogic_cli.context import client_of, config_of, group
from crosslogic_cli.failure import CliError
from crosslogic_cli.output import show_one

usage = group(
    "usage",
    "What was used and what it costs. Example: `crosslogic usage sum --by model,day --from 2026-11-01T00:00:00Z`",
)
audit = group("audit", "Who changed what. Example: `crosslogic audit list --org ORG`")

_SUMS = (
    ("requests", "requests"),
    ("prompt tokens", "prompt_tokens"),
    ("generated tokens", "completion_tokens"),
    ("cost $", "cost_usd"),
)
_RECORD = (
    ("request", "request_id"),
    ("time", "start_time"),
    ("model", "model"),
    ("region", "region"),
    ("prompt", "prompt_tokens"),
    ("generated", "completion_tokens"),
    ("outcome", "outcome"),
    ("cost $", "cost_usd"),
)
_AUDIT = (
    ("number", "seq"),
    ("time", "time"),
    ("who", "actor.name"),
    ("action", "action"),
    ("what", "object_id"),
    ("outcome", "outcome"),
    ("from", "actor.address"),
)
From = Annotated[str | None, typer.Option("--from", help="a time such as 2026-11-01T00:00:00Z")]
To = Annotated[str | None, typer.Option("--to", help="a time, not included")]
Org = Annotated[str | None, typer.Option("--org")]


@usage.command("sum")
def sum_usage(
    context: typer.Context,
    by: Annotated[str, typer.Option(help="org, environment, key, model, region, hour, day; at most 4")] = "model",
    org: Org = None,
    model: Annotated[str | None, typer.Option()] = None,
    from_time: From = None,
    to_time: To = None,
) -> None:
    """Sum the ledger."""
    names = {"org": "org_id", "environment": "environment_id", "key": "key_id", "hour": "time", "day": "time"}
    columns = [*((name, names.get(name, name)) for name in by.split(",") if name), *_SUMS]
    query = {"group_by": by, "org_id": org, "model": model, "from_": from_time, "to": to_time}
    show_list(context, lambda admin: rows(admin.query_usage, **query), columns)


@usage.command("records")
def records(
    context: typer.Context,
    request: Annotated[str | None, typer.Option(help="one request's id")] = None,
    org: Org = None,
    from_time: From = None,
    to_time: To = None,
    most: Annotated[int, typer.Option(help="how many")] = 20,
) -> None:
    """List single records, newest first."""
    query = {"request_id": request, "org_id": org, "from_": from_time, "to": to_time}
    show_list(context, lambda admin: islice(rows(admin.list_usage_records, **query), most), _RECORD)


@audit.command("list")
def list_audit(
    context: typer.Context,
    org: Org = None,
    action: Annotated[str | None, typer.Option(help="for example org.update")] = None,
    most: Annotated[int, typer.Option(help="how many")] = 50,
) -> None:
    """List audit records, newest first."""
    show_list(context, lambda admin: islice(rows(admin.list_audit, org_id=org, action=action), most), _AUDIT)


@audit.command("verify")
def verify_audit(context: typer.Context) -> None:
    """Check that no record was removed or altered."""
    with client_of(context) as client:
        found = client.admin.verify_audit()
    show_one(found, as_json=config_of(context).as_json)
    if not found["intact"]:
        raise CliError("The audit log is not what was written.")


def chat(
    context: typer.Context,
    model: str,
    message: Annotated[str | None, typer.Argument(help="none: read from standard input")] = None,
    max_tokens: Annotated[int, typer.Option()] = 512,
) -> None:
    """Talk to a model with your API key. Example: `crosslogic chat llama-3-8b "Hello"`"""
    text = message if message is not None else sys.stdin.read()
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "stream": True,
    }
    with client_of(context) as client:
        for event in client.infer("/v1/chat/completions", body):
            if "error" in event:
                raise CliError(event["error"].get("message", "The answer was cut."))
            for choice in event.get("choices", ()):
                sys.stdout.write(choice.get("delta", {}).get("content") or "")
                sys.stdout.flush()
    sys.stdout.write("\n")
