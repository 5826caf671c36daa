"""Notifications as messages."""

import math
from collections.abc import Callable
from datetime import time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from google.protobuf.duration_pb2 import Duration

from crosslogic.orchestrator.v1 import notifications_pb2 as pb
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_orchestrator.notify.domain import Delivery, QuietHours, Route, Severity
from crosslogic_orchestrator.notify.service import DEFAULT_GATHER_S, Asked

_CLOCK_CHARS = 5
_CHANNEL, _STATE = "NOTIFICATION_CHANNEL_", "NOTIFICATION_STATE_"


def asked_of(spec: pb.NotificationRouteSpec) -> Asked:
    """What a caller asks for. Raises INVALID_ARGUMENT."""
    return Asked(
        name=spec.name,
        channel=_name(pb.NotificationChannel.Name, spec.channel).removeprefix(_CHANNEL).lower(),
        target=spec.target,
        secret=spec.secret,
        kinds=tuple(dict.fromkeys(spec.kinds)),
        min_severity=_severity(spec.min_severity, Severity.INFO, "min_severity"),
        quiet=_quiet(spec.quiet_hours) if spec.HasField("quiet_hours") else None,
        gather_s=_seconds(spec.gather) if spec.HasField("gather") else DEFAULT_GATHER_S,
        enabled=not spec.disabled,
    )


def state_of(state: "pb.NotificationState.ValueType") -> str:
    """A state's name; empty: any."""
    name = _name(pb.NotificationState.Name, state).removeprefix(_STATE).lower()
    return "" if name in ("", "unspecified") else name


def route_message(route: Route) -> pb.NotificationRoute:
    """A route, without what is secret of it."""
    quiet = route.quiet
    return pb.NotificationRoute(
        id=route.id,
        org_id=route.org_id,
        spec=pb.NotificationRouteSpec(
            name=route.name,
            channel=pb.NotificationChannel.Value(_CHANNEL + route.channel.upper()),
            kinds=route.kinds,
            min_severity=_severity_value(route.min_severity),
            quiet_hours=None if quiet is None else _quiet_message(quiet),
            gather=Duration(seconds=route.gather_s),
            disabled=not route.enabled,
        ),
        shown_target=route.shown_target,
        revision=route.revision,
        create_time=timestamp(route.created_at),
        update_time=timestamp(route.updated_at),
    )


def delivery_message(delivery: Delivery) -> pb.NotificationDelivery:
    """What became of a message."""
    return pb.NotificationDelivery(
        id=delivery.id,
        route_id=delivery.route_id,
        org_id=delivery.org_id,
        kind=delivery.kind,
        severity=_severity_value(delivery.severity),
        count=delivery.count,
        state=pb.NotificationState.Value(_STATE + delivery.state.upper()),
        attempts=delivery.attempts,
        last_error=delivery.last_error,
        create_time=timestamp(delivery.created_at),
        due_time=timestamp(delivery.due_at),
        end_time=None if delivery.ended_at is None else timestamp(delivery.ended_at),
    )


def _quiet(quiet: pb.QuietHours) -> QuietHours:
    try:
        zone = ZoneInfo(quiet.time_zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _bad("quiet_hours.time_zone", "must be IANA's name of a time zone, such as Asia/Kolkata") from None
    return QuietHours(
        start=_clock(quiet.start, "quiet_hours.start"),
        end=_clock(quiet.end, "quiet_hours.end"),
        zone=zone,
        breaks_through=_severity(quiet.breaks_through, Severity.CRITICAL, "quiet_hours.breaks_through"),
    )


def _quiet_message(quiet: QuietHours) -> pb.QuietHours:
    return pb.QuietHours(
        start=quiet.start.isoformat("minutes"),
        end=quiet.end.isoformat("minutes"),
        time_zone=quiet.zone.key,
        breaks_through=_severity_value(quiet.breaks_through),
    )


def _clock(text: str, name: str) -> time:
    try:
        found = time.fromisoformat(text) if len(text) == _CLOCK_CHARS else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is not None:
        raise _bad(name, "must be a time such as 22:30")
    return found


def _severity(value: "pb.NotificationSeverity.ValueType", default: Severity, name: str) -> Severity:
    if value == pb.NOTIFICATION_SEVERITY_UNSPECIFIED:
        return default
    try:
        return Severity(value)
    except ValueError:
        raise _bad(name, "must be info, warning or critical") from None


def _severity_value(severity: Severity) -> "pb.NotificationSeverity.ValueType":
    return pb.NotificationSeverity.Value(f"NOTIFICATION_SEVERITY_{severity.name}")


def _seconds(duration: Duration) -> int:
    return math.ceil(duration.seconds + duration.nanos / 1e9)


def _name(name_of: Callable[..., str], value: int) -> str:
    try:
        return name_of(value)
    except ValueError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"{value} is no value that is known here.") from None


def _bad(name: str, what: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` {what}.", param=name)
