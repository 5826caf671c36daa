"""A route that takes everything: a webhook of the operators."""

from datetime import UTC, datetime

from crosslogic_orchestrator.notify.domain import Route, Severity

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ROUTE = Route(
    id="r",
    org_id="",
    name="all",
    channel="webhook",
    shown_target="example.com",
    kinds=(),
    min_severity=Severity.INFO,
    quiet=None,
    gather_s=60,
    enabled=True,
    revision=1,
    created_at=NOW,
    updated_at=NOW,
)
