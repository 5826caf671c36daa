"""Where events come from: our own fleet, the accountant's budgets, billing's accounts."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.accountant.v1 import budgets_pb2 as budgets
from crosslogic.accountant.v1 import budgets_pb2_grpc as budgets_rpc
from crosslogic.billing.v1 import account_events_pb2 as billing
from crosslogic.billing.v1 import account_events_pb2_grpc as billing_rpc
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.tls import Channels
from crosslogic_orchestrator.notify.domain import DEAD_KIND, Event, Severity
from crosslogic_orchestrator.notify.policy import severity_of
from crosslogic_orchestrator.scaling.records import EventRow
from crosslogic_orchestrator.scaling.store import ScalingStore

_TIMEOUT_S = 10.0
_MAX_TEXT = 1_000
_FULL_PERCENT = 100
_EARLY_PERCENT = 80
_PICODOLLARS = 10**12
_ONCE_A_MACHINE = frozenset({"node_lost", "launch_failed", "machine_not_ended", "machine_abandoned"})
_FLEET_TITLES = {
    "node_lost": "A machine was lost",
    "launch_failed": "A launch failed",
    "fleet_silent": "Most machines look dead",
    "machine_not_ended": "A machine does not end",
    "machine_abandoned": "A machine was given up",
    "scale_up": "A machine was asked for",
    "scale_down": "A machine ends",
    "scale_held": "Machines are needed and not launched",
    "replacement_requested": "A replacement was asked for",
    DEAD_KIND: "A notification was given up",
}
_ACCOUNT_TITLES = {
    "payment_failed": "A payment failed",
    "org_suspended": "An organisation was suspended",
    "org_resumed": "An organisation has paid",
}


class FleetSource:
    """Implements Source: what happened to machines and deployments."""

    name = "fleet"

    def __init__(self, store: ScalingStore) -> None:
        self._store = store

    async def after(self, sequence: int, *, limit: int) -> tuple[list[Event], int]:
        """See Source."""
        rows = await self._store.events(after=sequence, limit=limit)
        return [fleet_event(row) for row in rows], rows[-1].seq if rows else sequence


class BudgetSource:
    """Implements Source: thresholds that spending reached."""

    name = "budgets"

    def __init__(self, *, channels: Channels, target: str) -> None:
        """`target` is host:port of the accountant."""
        self._channels = channels
        self._target = target

    async def after(self, sequence: int, *, limit: int) -> tuple[list[Event], int]:
        """See Source."""
        stub: budgets_rpc.BudgetServiceAsyncStub = budgets_rpc.BudgetServiceStub(
            self._channels.service("accountant", self._target)
        )
        request = budgets.ListBudgetEventsRequest(after_sequence=sequence, page_size=limit)
        try:
            page = await stub.ListBudgetEvents(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return [budget_event(each) for each in page.events], page.events[-1].sequence if page.events else sequence


class AccountSource:
    """Implements Source: payments that failed, and suspensions."""

    name = "accounts"

    def __init__(self, *, channels: Channels, target: str) -> None:
        """`target` is host:port of billing."""
        self._channels = channels
        self._target = target

    async def after(self, sequence: int, *, limit: int) -> tuple[list[Event], int]:
        """See Source."""
        stub: billing_rpc.AccountEventServiceAsyncStub = billing_rpc.AccountEventServiceStub(
            self._channels.service("billing", self._target)
        )
        request = billing.ListAccountEventsRequest(after_sequence=sequence, page_size=limit)
        try:
            page = await stub.ListAccountEvents(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return [account_event(each) for each in page.events], page.events[-1].sequence if page.events else sequence


def fleet_event(row: EventRow) -> Event:
    """Of a machine that is lost there is one event, whoever notices."""
    once = row.kind in _ONCE_A_MACHINE and row.instance_id
    details: dict[str, Any] = {
        "deployment_id": row.deployment_id or None,
        "instance_id": row.instance_id or None,
        **row.details,
    }
    return Event(
        key=f"{row.kind}:{row.instance_id}" if once else f"fleet:{row.seq}",
        kind=row.kind,
        severity=severity_of(row.kind),
        org_id=_org_id(row.org_id),
        at=row.at,
        title=_FLEET_TITLES.get(row.kind, row.kind),
        text=_text(row.text),
        details=details,
    )


def budget_event(event: budgets.BudgetEvent) -> Event:
    """One for each threshold of a budget's period."""
    full = event.stopped or event.threshold_percent >= _FULL_PERCENT
    start = _moment(event.period_start)
    severity = Severity.CRITICAL if full else Severity.WARNING
    if event.threshold_percent < _EARLY_PERCENT and not full:
        severity = Severity.INFO
    end = " Requests are refused from here on." if event.stopped else ""
    spent = int(event.spent_picodollars) if event.spent_picodollars.isdecimal() else 0
    return Event(
        key=f"budget:{event.budget_id}:{start.isoformat()}:{event.threshold_percent}",
        kind="budget_exhausted" if full else "budget_threshold",
        severity=severity,
        org_id=_org_id(event.org_id),
        at=_moment(event.event_time),
        title=f"{event.threshold_percent} % of a budget is spent",
        text=_text(f"{event.name}: {_usd(spent)} of {_usd(event.limit_picodollars)} is spent.{end}"),
        details={
            "budget_id": event.budget_id,
            "name": _text(event.name),
            "owners": [_text(owner) for owner in event.owners],
            "threshold_percent": event.threshold_percent,
            "spent_picodollars": event.spent_picodollars,
            "limit_picodollars": str(event.limit_picodollars),
            "period_start": start.isoformat(),
            "stopped": event.stopped,
        },
    )


def account_event(event: billing.AccountEvent) -> Event:
    """Billing numbers its own."""
    return Event(
        key=f"accounts:{event.sequence}",
        kind=event.kind,
        severity=severity_of(event.kind),
        org_id=_org_id(event.org_id),
        at=_moment(event.event_time),
        title=_ACCOUNT_TITLES.get(event.kind, event.kind),
        text=_text(event.text),
        details={"subject": _text(event.subject)} if event.subject else {},
    )


def _usd(picodollars: int) -> str:
    return f"${picodollars / _PICODOLLARS:,.2f}"


def _org_id(text: str) -> str:
    """What is no id belongs to nobody but the operators: one strange row must not hold up all that follow."""
    try:
        return str(UUID(text)) if text else ""
    except ValueError:
        return ""


def _text(text: str) -> str:
    return text.replace("\0", "")[:_MAX_TEXT]


def _moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
