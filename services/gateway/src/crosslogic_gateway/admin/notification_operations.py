"""The admin API's operations on notifications."""

from typing import Any

from crosslogic_gateway.admin import notification_schemas as schemas
from crosslogic_gateway.admin import notifications
from crosslogic_gateway.admin.access import Access, of_query
from crosslogic_gateway.admin.operation import Operation

_TAG = "Notifications"
_SECRETS = frozenset({"target", "secret"})
NOTIFICATION_OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        method="POST",
        path="/admin/notifications/routes",
        name="createNotificationRoute",
        access=Access("admin", notifications.of_body),
        summary="Say who is told what happened, and how; what signs is shown this once",
        tag=_TAG,
        handle=notifications.create_route,
        body=schemas.NewNotificationRoute,
        unwritten=_SECRETS,
        answer=schemas.SecretNotificationRoute,
        status=201,
        idempotent_by_key=True,
        errors=(404, 415, 429),
    ),
    Operation(
        method="GET",
        path="/admin/notifications/routes",
        name="listNotificationRoutes",
        access=Access("read_only", of_query),
        summary="List routes of notifications",
        tag=_TAG,
        handle=notifications.list_routes,
        query=schemas.NotificationRoutesQuery,
        answer=schemas.NotificationRouteList,
        errors=(404,),
    ),
    Operation(
        method="GET",
        path="/admin/notifications/routes/{id}",
        name="getNotificationRoute",
        access=Access("read_only", notifications.of_route),
        summary="Get a route, without what is secret of it",
        tag=_TAG,
        handle=notifications.get_route,
        answer=schemas.NotificationRoute,
        errors=(404,),
    ),
    Operation(
        method="PATCH",
        path="/admin/notifications/routes/{id}",
        name="updateNotificationRoute",
        access=Access("admin", notifications.of_route),
        summary="Change a route, or what signs for it",
        tag=_TAG,
        handle=notifications.update_route,
        body=schemas.NotificationRoutePatch,
        unwritten=_SECRETS,
        answer=schemas.SecretNotificationRoute,
        errors=(404, 409, 415),
    ),
    Operation(
        method="DELETE",
        path="/admin/notifications/routes/{id}",
        name="deleteNotificationRoute",
        access=Access("admin", notifications.of_route),
        summary="End a route; what waits for it is dropped",
        tag=_TAG,
        handle=notifications.delete_route,
        answer=schemas.NotificationRoute,
        errors=(404,),
    ),
    Operation(
        method="POST",
        path="/admin/notifications/routes/{id}/test",
        name="testNotificationRoute",
        access=Access("admin", notifications.of_route),
        summary="Send a test now, and say what came of it",
        tag=_TAG,
        handle=notifications.try_route,
        answer=schemas.TriedNotification,
        errors=(404, 429),
    ),
    Operation(
        method="GET",
        path="/admin/notifications/deliveries",
        name="listNotificationDeliveries",
        access=Access("read_only", of_query),
        summary="List messages and what became of them, newest first; `state=dead` lists dead letters",
        tag=_TAG,
        handle=notifications.list_deliveries,
        query=schemas.NotificationDeliveriesQuery,
        answer=schemas.NotificationDeliveryList,
        errors=(404,),
    ),
    Operation(
        method="POST",
        path="/admin/notifications/deliveries/{id}/replay",
        name="replayNotificationDelivery",
        access=Access("admin", notifications.of_delivery),
        summary="Send a dead letter again, under the id it has",
        tag=_TAG,
        handle=notifications.replay_delivery,
        answer=schemas.NotificationDelivery,
        errors=(404,),
    ),
)
