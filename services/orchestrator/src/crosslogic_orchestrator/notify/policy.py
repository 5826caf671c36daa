"""When a message is sent, to whom, and what follows from an attempt that failed. No I/O, no clock."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from crosslogic_orchestrator.notify.domain import DEAD_KIND, TEST_KIND, Event, QuietHours, Route, Severity

KINDS: Mapping[str, Severity] = MappingProxyType(
    {
        "node_lost": Severity.CRITICAL,
        "launch_failed": Severity.CRITICAL,
        "fleet_silent": Severity.CRITICAL,
        "machine_not_ended": Severity.CRITICAL,
        "machine_abandoned": Severity.WARNING,
        "scale_held": Severity.WARNING,
        "replacement_requested": Severity.WARNING,
        "scale_up": Severity.INFO,
        "scale_down": Severity.INFO,
        "budget_threshold": Severity.WARNING,
        "budget_exhausted": Severity.CRITICAL,
        "payment_failed": Severity.CRITICAL,
        "org_suspended": Severity.CRITICAL,
        "org_resumed": Severity.INFO,
        DEAD_KIND: Severity.WARNING,
        TEST_KIND: Severity.INFO,
    }
)
"""Every kind of event that may be asked for, and how severe it usually is."""

_FAILING_GATHER_S = 60
_BACKDATED = timedelta(minutes=1)
"""Clocks of services differ: what seems to have happened shortly before a route was made is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and when a delivery is tried again."""

    base_s: float = 5.0
    cap_s: float = 3_600.0
    attempts: int = 15
    """In all: with these figures the last is about seven hours after the first."""


def severity_of(kind: str) -> Severity:
    """Of a kind that this version may not know."""
    return KINDS.get(kind, Severity.WARNING)


def wants(route: Route, event: Event) -> bool:
    """Whether an event is told on a route. An organisation's route is never told of anybody else's."""
    return (
        route.enabled
        and (not route.org_id or route.org_id == event.org_id)
        and (not route.kinds or event.kind in route.kinds)
        and event.severity >= route.min_severity
        and event.at >= route.created_at - _BACKDATED
        # Where messages are lost it is not told that they are.
        and not (event.kind == DEAD_KIND and event.details.get("route_id") == route.id)
    )


def due_at(
    route: Route, severity: Severity, *, now: datetime, last: datetime | None, failing: bool = False
) -> datetime:
    """When a message is to be sent. `last`: when the one before of the same kind was to be.

    `failing`: one of the kind was tried and not taken; it and those that follow must not become ever more.
    """
    gather_s = max(route.gather_s, _FAILING_GATHER_S) if failing else route.gather_s
    return not_quiet(route, severity, now if last is None else max(now, last + timedelta(seconds=gather_s)))


def not_quiet(route: Route, severity: Severity, moment: datetime) -> datetime:
    """`moment`, or the end of the route's quiet hours that it is in."""
    if route.quiet is None or severity >= route.quiet.breaks_through:
        return moment
    return quiet_until(route.quiet, moment)


def quiet_until(quiet: QuietHours, moment: datetime) -> datetime:
    """The end of the quiet hours that `moment` is in; `moment` itself outside of them."""
    local = moment.astimezone(quiet.zone)
    clock = local.time().replace(tzinfo=None)
    if quiet.start < quiet.end:
        if not quiet.start <= clock < quiet.end:
            return moment
        day = local.date()
    elif clock >= quiet.start:
        day = local.date() + timedelta(days=1)
    elif clock < quiet.end:
        day = local.date()
    else:
        return moment
    # Where clocks are put back the hour comes twice, and the end may be the first of the two.
    ends = (datetime.combine(day, quiet.end, tzinfo=quiet.zone).replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    return min((end for end in ends if end > moment), default=moment)


def retry_in_s(retry: Retry, *, attempt: int, asked_s: float | None, uniform: Callable[[], float]) -> float | None:
    """How long to wait after attempt number `attempt` failed. None: it was the last.

    `asked_s` is what the receiver asked for; it is kept to within the longest wait.
    """
    if attempt >= retry.attempts:
        return None
    ceiling_s = min(retry.cap_s, retry.base_s * 2.0 ** min(attempt - 1, 32))
    wait_s = ceiling_s * (0.5 + 0.5 * uniform())
    return wait_s if asked_s is None else max(wait_s, min(asked_s, retry.cap_s))
