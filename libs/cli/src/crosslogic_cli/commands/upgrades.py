"""Model upgrades: from one version to another while it serves."""

from typing import Annotated

import typer

from crosslogic_admin import rows
from crosslogic_admin.client import NewUpgrade, NewUpgradeRules
from crosslogic_cli.answers import show_answer, show_list
from crosslogic_cli.context import confirm
from crosslogic_cli.failure import CliError

_UPGRADE = (
    ("id", "id"),
    ("from", "from_version"),
    ("to", "to_version"),
    ("phase", "phase"),
    ("%", "percent"),
    ("new ok", "new_outcomes.succeeded"),
    ("new failed", "new_outcomes.failed"),
    ("new first token ms", "new_outcomes.first_token_ms"),
    ("old first token ms", "old_outcomes.first_token_ms"),
    ("reason", "reason"),
)


def upgrade(
    context: typer.Context,
    model: str,
    to_version: Annotated[str, typer.Option("--to", help="as its nodes name it (CROSSLOGIC_MODEL_VERSION)")],
    from_version: Annotated[
        str | None, typer.Option("--from", help="left out: the model's, or the one that all its nodes name")
    ] = None,
    steps: Annotated[str, typer.Option(help="percent of traffic, step by step")] = "5,25,50,100",
    step_s: Annotated[int, typer.Option("--step-s", help="least seconds at each step")] = 300,
    step_requests: Annotated[int, typer.Option("--step-requests", help="least requests at each step")] = 100,
    max_error_percent: Annotated[
        float, typer.Option("--max-error-percent", help="failed requests above the old version's share")
    ] = 2.0,
    max_first_token_ratio: Annotated[
        float, typer.Option("--max-first-token-ratio", help="mean time to the first token over the old version's")
    ] = 1.5,
    first_token_slack_ms: Annotated[
        int, typer.Option("--first-token-slack-ms", help="later first tokens that are never held against it")
    ] = 50,
    min_nodes: Annotated[int, typer.Option("--min-nodes", help="new nodes before traffic goes there")] = 1,
    wait_s: Annotated[int, typer.Option("--wait-s", help="seconds that these are waited for")] = 3_600,
    lost_s: Annotated[int, typer.Option("--lost-s", help="seconds that no new node may serve")] = 30,
    finish_s: Annotated[int, typer.Option("--finish-s", help="seconds that running work on old nodes has")] = 600,
) -> None:
    """Take a model to another version by steps; it goes back by itself if that is worse. Start it before its nodes."""
    rules: NewUpgradeRules = {
        "steps_percent": _percents(steps),
        "step_s": step_s,
        "step_requests": step_requests,
        "max_error_percent": max_error_percent,
        "max_first_token_ratio": max_first_token_ratio,
        "first_token_slack_ms": first_token_slack_ms,
        "min_nodes": min_nodes,
        "wait_s": wait_s,
        "lost_s": lost_s,
        "finish_s": finish_s,
    }
    body: NewUpgrade = {"to_version": to_version, "rules": rules}
    if from_version is not None:
        body["from_version"] = from_version
    show_answer(context, lambda admin: admin.create_model_upgrade(model, body))


def list_upgrades(context: typer.Context, model: str) -> None:
    """List a model's upgrades, newest first."""
    show_list(context, lambda admin: rows(admin.list_model_upgrades, model), _UPGRADE)


def upgrade_status(context: typer.Context, upgrade_id: Annotated[str, typer.Argument(metavar="UPGRADE")]) -> None:
    """Show an upgrade and what was seen of both versions."""
    show_answer(context, lambda admin: admin.get_model_upgrade(upgrade_id))


def roll_back(
    context: typer.Context,
    upgrade_id: Annotated[str, typer.Argument(metavar="UPGRADE")],
    reason: Annotated[str, typer.Option(help="why, for people")] = "",
) -> None:
    """Send all traffic back to the old version."""
    confirm(context, f"All traffic of upgrade {upgrade_id} goes back to the old version.")
    show_answer(context, lambda admin: admin.roll_back_model_upgrade(upgrade_id, {"reason": reason}))


def _percents(text: str) -> list[int]:
    """The steps. Raises CliError."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and len(word) <= 3 for word in words):  # noqa: PLR2004  # 100
        raise CliError("--steps are percentages with commas between, for example 5,25,50,100.")
    return [int(word) for word in words]
