"""What is wrong with a deployment, and how to mend it."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from crosslogic_admin import AdminError, UnreachableError, rows
from crosslogic_cli import gateway_checks, machine_checks
from crosslogic_cli.client import Client
from crosslogic_cli.context import client_of, config_of
from crosslogic_cli.failure import CliError
from crosslogic_cli.findings import Finding, broken, unchecked, well
from crosslogic_cli.output import console, show_json, text_of

_MOST_JOBS = 50
_STYLES = {"well": "green", "worth a look": "yellow", "broken": "red", "not checked": "dim"}


def doctor(
    context: typer.Context,
    tls: Annotated[Path, typer.Option(help="folder of the services' certificates")] = Path(".run/tls"),
    data: Annotated[Path, typer.Option(help="a folder on the disk that holds the data")] = Path(),
) -> None:
    """Check a deployment and say what is wrong and how to mend it.

    Databases, Stripe and the bucket are those of the environment: `DATABASE_URL`, `REDIS_URL`, `STRIPE_SECRET_KEY`,
    `R2_ACCOUNT_ID` or `S3_ENDPOINT`, `R2_BUCKET_NAME`. What is not set is not checked.
    """
    config = config_of(context)
    with client_of(context) as client:
        found = examined(client, config.base_url, os.environ, tls=tls, data=data)
    if config.as_json:
        show_json([asdict(each) for each in found])
    else:
        _show(found)
    if any(each.verdict == "broken" for each in found):
        raise CliError(f"{sum(each.verdict == 'broken' for each in found)} things are broken.")


def examined(client: Client, base_url: str, environ: Mapping[str, str], *, tls: Path, data: Path) -> list[Finding]:
    """Every check, one after the other. None raises."""
    answers, found = _gateway(client)
    found.append(machine_checks.check_port(base_url, gateway_answers=answers))
    found += machine_checks.check_certificates(tls)
    found.append(machine_checks.check_redis(environ.get("REDIS_URL", "")))
    found += machine_checks.check_database(environ.get("DATABASE_URL", ""))
    found.append(machine_checks.check_disk(data))
    found.append(
        machine_checks.check_stripe(
            environ.get("STRIPE_SECRET_KEY", ""), environ.get("STRIPE_BASE_ADDRESS") or "https://api.stripe.com"
        )
    )
    account = environ.get("R2_ACCOUNT_ID", "")
    endpoint = environ.get("S3_ENDPOINT") or (f"https://{account}.r2.cloudflarestorage.com" if account else "")
    found.append(machine_checks.check_bucket(endpoint, environ.get("R2_BUCKET_NAME", "")))
    return found


def _gateway(client: Client) -> tuple[bool, list[Finding]]:
    try:
        health = client.get("/health")
        ready = client.get("/ready")
    except CliError as error:
        return False, [
            broken("gateway", str(error), "start it and look at its log; is CROSSLOGIC_BASE_URL its address?")
        ]
    found = [gateway_checks.check_clock(health.headers.get("Date"))]
    try:
        found += gateway_checks.check_ready(ready.status_code, ready.json())
    except ValueError:
        return False, [broken("gateway", "what answers there is no CrossLogic gateway", "correct CROSSLOGIC_BASE_URL")]
    return True, found + _fleet(client)


def _fleet(client: Client) -> list[Finding]:
    try:
        nodes: list[dict[str, Any]] = list(rows(client.admin.list_nodes))
    except (CliError, AdminError, UnreachableError) as error:
        said = error.message if isinstance(error, AdminError) else str(error)
        if "token" in said.lower():
            return [broken("token", said, "set CROSSLOGIC_ADMIN_TOKEN to the gateway's own (its ADMIN_TOKEN_FILE)")]
        return [broken("registry", said, "start the registry, and look at its log")]
    found = [well("token", "the admin token is taken"), *gateway_checks.check_nodes(nodes), *_ends(client)]
    try:
        version = str(client.get("/openapi.json").json()["info"]["version"])
    except (ValueError, KeyError, CliError):
        return [*found, unchecked("versions", "the gateway does not tell its version")]
    return [*found, gateway_checks.check_versions(version, nodes)]


def _ends(client: Client) -> list[Finding]:
    try:
        page = client.admin.list_instances(page_size=1_000)
        there = [each["job_id"] for each in page["data"] if each["state"] in ("launching", "terminating")]
        # Oldest first: those that are to end for longest.
        return gateway_checks.check_ends([client.admin.get_instance_job(job) for job in there[::-1][:_MOST_JOBS]])
    except (CliError, AdminError, UnreachableError) as error:
        return [unchecked("machines", error.message if isinstance(error, AdminError) else str(error))]


def _show(found: list[Finding]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("check", "verdict", "what", "what to do"):
        table.add_column(heading, overflow="fold")
    for each in found:
        verdict = f"[{_STYLES[each.verdict]}]{each.verdict}[/]"
        table.add_row(each.check, verdict, text_of(each.what), text_of(each.fix) if each.fix else "")
    console().print(table)
