"""Notifications: who is told what happened, and what became of it."""

import uuid
from typing import Any, cast

from google.protobuf.duration_pb2 import Duration
from msgspec import UNSET, UnsetType

from crosslogic.orchestrator.v1 import notifications_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin import notification_schemas as schemas
from crosslogic_gateway.admin.conversion import optional_time, text_or_none, time
from crosslogic_gateway.admin.notification_stub import NotificationStub
from crosslogic_gateway.admin.operation import Call

_CHANNEL, _SEVERITY, _STATE = "NOTIFICATION_CHANNEL_", "NOTIFICATION_SEVERITY_", "NOTIFICATION_STATE_"


async def create_route(call: Call[schemas.NewNotificationRoute, None]) -> schemas.SecretNotificationRoute:
    """POST /admin/notifications/routes."""
    body = call.body
    spec = pb.NotificationRouteSpec(
        name=body.name,
        channel=pb.NotificationChannel.Value(_CHANNEL + body.channel.upper()),
        target=body.target,
        secret=body.secret,
        kinds=body.kinds,
        min_severity=_severity(body.min_severity),
        quiet_hours=_quiet(body.quiet_hours),
        gather=Duration(seconds=body.gather_s),
        disabled=not body.enabled,
    )
    request = pb.CreateNotificationRouteRequest(
        org_id=body.org_id, spec=spec, request_id=call.create_request_id("notification-route")
    )
    made = await call.rpc(_stub(call).CreateNotificationRoute, request)
    return _with_secret(made.route, made.secret)


async def list_routes(call: Call[None, schemas.NotificationRoutesQuery]) -> schemas.NotificationRouteList:
    """GET /admin/notifications/routes."""
    request = pb.ListNotificationRoutesRequest(
        org_id=call.query.org_id, page_size=call.query.page_size, page_token=call.query.page_token
    )
    page = await call.rpc(_stub(call).ListNotificationRoutes, request)
    return schemas.NotificationRouteList(
        data=[schemas.NotificationRoute(**_fields(route)) for route in page.routes],
        next_page_token=text_or_none(page.next_page_token),
    )


async def get_route(call: Call[None, None]) -> schemas.NotificationRoute:
    """GET /admin/notifications/routes/{id}."""
    return schemas.NotificationRoute(**_fields(await _route(call)))


async def update_route(call: Call[schemas.NotificationRoutePatch, None]) -> schemas.SecretNotificationRoute:
    """PATCH /admin/notifications/routes/{id}."""
    body, known = call.body, await _route(call)
    spec = known.spec
    if body.name is not UNSET:
        spec.name = body.name
    if body.target is not UNSET:
        spec.target = body.target
    if body.kinds is not UNSET:
        del spec.kinds[:]
        spec.kinds.extend(body.kinds)
    if body.min_severity is not UNSET:
        spec.min_severity = _severity(body.min_severity)
    if not isinstance(body.quiet_hours, UnsetType):
        spec.ClearField("quiet_hours")
        if body.quiet_hours is not None:
            spec.quiet_hours.CopyFrom(_quiet(body.quiet_hours) or pb.QuietHours())
    if body.gather_s is not UNSET:
        spec.gather.CopyFrom(Duration(seconds=body.gather_s))
    if body.enabled is not UNSET:
        spec.disabled = not body.enabled
    spec.secret = body.secret
    request = pb.UpdateNotificationRouteRequest(
        # What is not changed is what was read: it is to be what is replaced, too.
        route_id=known.id,
        spec=spec,
        revision=body.revision or known.revision,
        rotate_secret=body.rotate_secret,
    )
    changed = await call.rpc(_stub(call).UpdateNotificationRoute, request)
    return _with_secret(changed.route, changed.secret)


async def delete_route(call: Call[None, None]) -> schemas.NotificationRoute:
    """DELETE /admin/notifications/routes/{id}."""
    known = await _route(call)
    await call.rpc(_stub(call).DeleteNotificationRoute, pb.DeleteNotificationRouteRequest(route_id=known.id))
    return schemas.NotificationRoute(**_fields(known))


async def try_route(call: Call[None, None]) -> schemas.TriedNotification:
    """POST /admin/notifications/routes/{id}/test."""
    request = pb.TestNotificationRouteRequest(route_id=call.path["id"])
    tried = await call.rpc(_stub(call).TestNotificationRoute, request)
    return schemas.TriedNotification(sent=tried.sent, error=text_or_none(tried.error))


async def list_deliveries(
    call: Call[None, schemas.NotificationDeliveriesQuery],
) -> schemas.NotificationDeliveryList:
    """GET /admin/notifications/deliveries."""
    query = call.query
    state = "UNSPECIFIED" if query.state is UNSET else query.state.upper()
    request = pb.ListNotificationDeliveriesRequest(
        org_id=query.org_id,
        route_id=query.route_id,
        state=pb.NotificationState.Value(_STATE + state),
        page_size=query.page_size,
        page_token=query.page_token,
    )
    page = await call.rpc(_stub(call).ListNotificationDeliveries, request)
    return schemas.NotificationDeliveryList(
        data=[_delivery(each) for each in page.deliveries], next_page_token=text_or_none(page.next_page_token)
    )


async def replay_delivery(call: Call[None, None]) -> schemas.NotificationDelivery:
    """POST /admin/notifications/deliveries/{id}/replay."""
    request = pb.ReplayNotificationDeliveryRequest(delivery_id=call.path["id"])
    return _delivery((await call.rpc(_stub(call).ReplayNotificationDelivery, request)).delivery)


async def of_body(call: Call[Any, Any]) -> str:
    """The body names the organisation, or nobody: that is the operators' business. Raises INVALID_ARGUMENT."""
    if not call.body.org_id:
        return ""
    try:
        return str(uuid.UUID(call.body.org_id))
    except ValueError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`org_id` must be a UUID.", param="org_id") from None


async def of_route(call: Call[Any, Any]) -> str:
    """A route is named in the path."""
    return (await _route(call)).org_id


async def of_delivery(call: Call[Any, Any]) -> str:
    """A delivery is named in the path."""
    request = pb.GetNotificationDeliveryRequest(delivery_id=call.path["id"])
    return (await call.rpc(_stub(call).GetNotificationDelivery, request)).delivery.org_id


async def _route(call: Call[Any, Any]) -> pb.NotificationRoute:
    request = pb.GetNotificationRouteRequest(route_id=call.path["id"])
    return (await call.rpc(_stub(call).GetNotificationRoute, request)).route


def _stub(call: Call[Any, Any]) -> NotificationStub:
    if call.deps.notifications is None:
        raise CodedError(
            ErrorCode.NOT_SUPPORTED, "This gateway has no orchestrator: set CROSSLOGIC_ORCHESTRATOR_TARGET."
        )
    return call.deps.notifications()


def _severity(name: schemas.SeverityName) -> "pb.NotificationSeverity.ValueType":
    return pb.NotificationSeverity.Value(_SEVERITY + name.upper())


def _severity_name(value: "pb.NotificationSeverity.ValueType") -> schemas.SeverityName:
    name = pb.NotificationSeverity.Name(value).removeprefix(_SEVERITY).lower()
    return cast("schemas.SeverityName", name)


def _quiet(quiet: schemas.QuietHours | None) -> pb.QuietHours | None:
    if quiet is None:
        return None
    return pb.QuietHours(
        start=quiet.start,
        end=quiet.end,
        time_zone=quiet.time_zone,
        breaks_through=_severity(quiet.breaks_through),
    )


def _fields(route: pb.NotificationRoute) -> dict[str, Any]:
    spec, quiet = route.spec, route.spec.quiet_hours
    return {
        "id": route.id,
        "org_id": text_or_none(route.org_id),
        "name": spec.name,
        "channel": pb.NotificationChannel.Name(spec.channel).removeprefix(_CHANNEL).lower(),
        "shown_target": route.shown_target,
        "kinds": list(spec.kinds),
        "min_severity": _severity_name(spec.min_severity),
        "quiet_hours": schemas.QuietHours(
            start=quiet.start,
            end=quiet.end,
            time_zone=quiet.time_zone,
            breaks_through=_severity_name(quiet.breaks_through),
        )
        if spec.HasField("quiet_hours")
        else None,
        "gather_s": spec.gather.seconds,
        "enabled": not spec.disabled,
        "revision": route.revision,
        "create_time": time(route.create_time),
        "update_time": time(route.update_time),
    }


def _with_secret(route: pb.NotificationRoute, secret: str) -> schemas.SecretNotificationRoute:
    return schemas.SecretNotificationRoute(**_fields(route), secret=text_or_none(secret))


def _delivery(delivery: pb.NotificationDelivery) -> schemas.NotificationDelivery:
    state = pb.NotificationState.Name(delivery.state).removeprefix(_STATE).lower()
    return schemas.NotificationDelivery(
        id=delivery.id,
        route_id=delivery.route_id,
        org_id=text_or_none(delivery.org_id),
        kind=delivery.kind,
        severity=_severity_name(delivery.severity),
        count=delivery.count,
        state=cast("schemas.StateName", state),
        attempts=delivery.attempts,
        last_error=text_or_none(delivery.last_error),
        create_time=time(delivery.create_time),
        due_time=time(delivery.due_time),
        end_time=optional_time(delivery, "end_time"),
    )
