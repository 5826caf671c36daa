"""Budgets and billing by the command line, against the admin API itself; and tables that can be copied from."""

import json
from collections.abc import AsyncIterator

import pytest

from crosslogic_cli.failure import CliError, ExitCode
from tests.fakes.admin_billing import ID
from tests.fakes.admin_neighbours import Neighbours
from tests.fakes.command_line import CommandLine


@pytest.fixture
async def line() -> AsyncIterator[CommandLine]:
    async with CommandLine(Neighbours().app()) as found:
        yield found


async def test_a_budget_is_made_in_dollars_and_ended(line: CommandLine) -> None:
    org = json.loads(await line.run("--json", "orgs", "create", "Acme"))["id"]
    made = json.loads(await line.run("--json", "budgets", "create", org, "team", "--usd", "12.50", "--hard"))
    assert (made["limit_picodollars"], made["period"], made["hard"]) == (12_500_000_000_000, "month", True)
    (listed,) = json.loads(await line.run("--json", "budgets", "list", "--org", org))
    assert listed["id"] == made["id"]
    assert json.loads(await line.run("--json", "budgets", "show", made["id"]))["name"] == "team"
    assert isinstance(await line.run("budgets", "delete", made["id"], fails=True), CliError)
    await line.run("--yes", "budgets", "delete", made["id"])
    assert json.loads(await line.run("--json", "budgets", "list")) == []


async def test_a_budget_of_nonsense_is_refused_before_anything_is_sent(line: CommandLine) -> None:
    for usd in ("much", "-1", "0", "nan", "inf", "1e-13"):
        error = await line.run("budgets", "create", ID, "team", f"--usd={usd}", fails=True)
        assert isinstance(error, CliError), usd
        assert error.code == ExitCode.USAGE


async def test_what_stripe_refused_is_listed_and_sent_again(line: CommandLine) -> None:
    event = json.loads(await line.run("--json", "billing", "events", "--most", "1"))[0]
    assert (event["state"], event["last_error"]) == ("dead", "400 no")
    assert json.loads(await line.run("--json", "billing", "replay", str(event["id"])))["id"] == event["id"]


async def test_a_reconciliation_with_an_unexplained_difference_fails_the_script_that_asked_for_it(
    line: CommandLine,
) -> None:
    error = await line.run("billing", "reconcile", "--from", "2026-11-01", "--to", "2026-11-02", fails=True)
    assert isinstance(error, CliError)
    assert "have no explanation" in str(error)
    (run, *_) = json.loads(await line.run("--json", "billing", "reconciliations", "--most", "1"))
    signed = json.loads(await line.run("--json", "billing", "sign-off", run["id"], "--by", "Ada", "--note", "seen"))
    assert signed["signed_by"] == "Ada"


async def test_ids_in_tables_are_whole_however_narrow_the_terminal(line: CommandLine) -> None:
    made = json.loads(await line.run("--json", "orgs", "create", "An organisation of some length"))
    line.environ["COLUMNS"] = "60"
    assert made["id"] in await line.run("orgs", "list")
