"""Rows as the words of notifications, and back."""

from datetime import time
from typing import Any, LiteralString
from zoneinfo import ZoneInfo

from psycopg.rows import TupleRow

from crosslogic_orchestrator.notify.domain import Delivery, Event, QuietHours, Route, Severity

ROUTE: LiteralString = (
    "r.id, r.org_id, r.name, r.channel, r.shown_target, r.kinds, r.min_severity, r.quiet, r.gather_s, r.enabled, "
    "r.revision, r.created_at, r.updated_at"
)
DELIVERY: LiteralString = (
    "d.id, d.route_id, d.org_id, d.kind, d.severity, d.count, d.state, d.attempts, d.last_error, d.created_at, "
    "d.due_at, d.ended_at"
)
EVENT: LiteralString = "e.key, e.kind, e.severity, e.org_id, e.at, e.title, e.text, e.details"


def route_of(row: TupleRow) -> Route:
    """A row of `ROUTE`."""
    return Route(
        id=str(row[0]),
        org_id=str(row[1] or ""),
        name=row[2],
        channel=row[3],
        shown_target=row[4],
        kinds=tuple(row[5]),
        min_severity=Severity(row[6]),
        quiet=None if row[7] is None else _quiet_of(row[7]),
        gather_s=row[8],
        enabled=row[9],
        revision=row[10],
        created_at=row[11],
        updated_at=row[12],
    )


def delivery_of(row: TupleRow) -> Delivery:
    """A row of `DELIVERY`."""
    return Delivery(
        id=str(row[0]),
        route_id=str(row[1]),
        org_id=str(row[2] or ""),
        kind=row[3],
        severity=Severity(row[4]),
        count=row[5],
        state=row[6],
        attempts=row[7],
        last_error=row[8],
        created_at=row[9],
        due_at=row[10],
        ended_at=row[11],
    )


def event_of(row: TupleRow) -> Event:
    """A row of `EVENT`."""
    return Event(
        key=row[0],
        kind=row[1],
        severity=Severity(row[2]),
        org_id=str(row[3] or ""),
        at=row[4],
        title=row[5],
        text=row[6],
        details=row[7],
    )


def quiet_json(quiet: QuietHours | None) -> dict[str, Any] | None:
    """Quiet hours as they are kept."""
    if quiet is None:
        return None
    return {
        "start": quiet.start.isoformat("minutes"),
        "end": quiet.end.isoformat("minutes"),
        "zone": quiet.zone.key,
        "breaks_through": int(quiet.breaks_through),
    }


def _quiet_of(kept: dict[str, Any]) -> QuietHours:
    return QuietHours(
        start=time.fromisoformat(kept["start"]),
        end=time.fromisoformat(kept["end"]),
        zone=ZoneInfo(kept["zone"]),
        breaks_through=Severity(kept["breaks_through"]),
    )
