"""Budgets: what an organisation, or a part of it, may spend in a period."""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

import typer

from crosslogic_admin import rows
from crosslogic_cli.answers import show_answer, show_list
from crosslogic_cli.context import confirm, group
from crosslogic_cli.failure import CliError, ExitCode

budgets = group("budgets", "What may be spent. Example: `crosslogic budgets create ORG team --usd 500 --hard`")

_PICODOLLARS = 10**12
_BUDGET = (
    ("id", "id"),
    ("name", "name"),
    ("org", "org_id"),
    ("scope", "scope"),
    ("period", "period"),
    ("limit $", "limit_usd"),
    ("spent $", "spent_usd"),
    ("hard", "hard"),
)


@budgets.command("list")
def list_budgets(context: typer.Context, org: Annotated[str | None, typer.Option()] = None) -> None:
    """List budgets with what is spent of them in their period."""
    show_list(context, lambda admin: rows(admin.list_budgets, org_id=org), _BUDGET)


@budgets.command("create")
def create_budget(
    context: typer.Context,
    org: str,
    name: str,
    usd: Annotated[str, typer.Option(help="dollars in a period")],
    period: Annotated[Literal["day", "month"], typer.Option()] = "month",
    scope: Annotated[Literal["org", "environment", "key"], typer.Option()] = "org",
    scope_id: Annotated[str, typer.Option("--of", help="the environment or the key")] = "",
    hard: Annotated[bool, typer.Option("--hard", help="requests beyond it are refused; else it only warns")] = False,
) -> None:
    """Make a budget."""
    body: Any = {
        "org_id": org,
        "name": name,
        "limit_picodollars": _picodollars(usd),
        "period": period,
        "scope": scope,
        "hard": hard,
    }
    if scope_id:
        body["scope_id"] = scope_id
    show_answer(context, lambda admin: admin.create_budget(body))


@budgets.command("show")
def show_budget(context: typer.Context, budget: str) -> None:
    """Show a budget."""
    show_answer(context, lambda admin: admin.get_budget(budget))


@budgets.command("delete")
def delete_budget(context: typer.Context, budget: str) -> None:
    """End a budget; what it held back is allowed again."""
    confirm(context, f"The budget {budget} ends for good.")
    show_answer(context, lambda admin: admin.delete_budget(budget))


def _picodollars(usd: str) -> int:
    """Dollars as picodollars. Raises CliError."""
    try:
        found = Decimal(usd) * _PICODOLLARS
        whole = int(found)
    except (InvalidOperation, OverflowError, ValueError):
        raise CliError(f"--usd {usd}: write dollars as a number, for example 500 or 12.50.", ExitCode.USAGE) from None
    if whole != found or whole <= 0:
        raise CliError(f"--usd {usd}: more than nothing, and no finer than a picodollar.", ExitCode.USAGE)
    return whole
