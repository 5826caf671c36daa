"""What other services tell, as events: the same event has one key, and a strange row ends nothing."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.accountant.v1 import budgets_pb2 as budgets
from crosslogic.billing.v1 import account_events_pb2 as billing
from crosslogic_orchestrator.notify.domain import Severity
from crosslogic_orchestrator.notify.sources import account_event, budget_event, fleet_event
from crosslogic_orchestrator.scaling.records import EventRow

NOW = Timestamp(seconds=1_790_000_000)
ORG = str(UUID(int=7))


def budget(percent: int, *, stopped: bool = False, **kwargs: str) -> budgets.BudgetEvent:
    return budgets.BudgetEvent(
        sequence=3,
        budget_id="b",
        org_id=kwargs.get("org_id", ORG),
        name=kwargs.get("name", "research"),
        owners=["cfo@example.com"],
        period_start=NOW,
        threshold_percent=percent,
        spent_picodollars=kwargs.get("spent", "1500000000000"),
        limit_picodollars=2 * 10**12,
        stopped=stopped,
        event_time=NOW,
    )


def machine(seq: int, kind: str = "node_lost", instance_id: str = "m-1") -> EventRow:
    return EventRow(
        seq=seq,
        kind=kind,
        org_id="",
        deployment_id="",
        instance_id=instance_id,
        at=datetime(2026, 11, 20, tzinfo=UTC),
        text="It is gone.",
        details={"spot": True},
    )


@pytest.mark.parametrize(
    ("percent", "stopped", "kind", "severity"),
    [
        (50, False, "budget_threshold", Severity.INFO),
        (80, False, "budget_threshold", Severity.WARNING),
        (100, False, "budget_exhausted", Severity.CRITICAL),
        (90, True, "budget_exhausted", Severity.CRITICAL),
    ],
)
def test_a_budgets_thresholds_matter_more_the_more_is_spent(
    percent: int, stopped: bool, kind: str, severity: Severity
) -> None:
    event = budget_event(budget(percent, stopped=stopped))
    assert (event.kind, event.severity, event.org_id) == (kind, severity, ORG)
    assert "$1.50 of $2.00 is spent" in event.text
    assert ("refused" in event.text) == stopped
    assert event.details["owners"] == ["cfo@example.com"]


def test_what_is_told_again_has_the_same_key_and_what_is_new_has_not() -> None:
    assert fleet_event(machine(1)).key == fleet_event(machine(2)).key
    assert fleet_event(machine(1)).key != fleet_event(machine(2, instance_id="m-2")).key
    assert fleet_event(machine(1, "scale_up")).key != fleet_event(machine(2, "scale_up")).key
    assert budget_event(budget(50)).key != budget_event(budget(80)).key


def test_rows_that_make_no_sense_are_told_to_operators_all_the_same() -> None:
    event = budget_event(budget(50, org_id="nobody", name="a\0b" + "x" * 5_000, spent="much"))
    assert event.org_id == ""
    assert "\0" not in event.text
    assert len(event.text) <= 1_000
    strange = account_event(billing.AccountEvent(sequence=1, kind="news", org_id="", text="?", event_time=NOW))
    assert (strange.kind, strange.title, strange.severity) == ("news", "news", Severity.WARNING)
    assert fleet_event(machine(1, "news")).title == "news"
