"""NotificationService over gRPC."""

import grpc.aio

from crosslogic.orchestrator.v1 import notifications_pb2 as pb
from crosslogic.orchestrator.v1 import notifications_pb2_grpc as rpc
from crosslogic_orchestrator.notify.service import Notifications
from crosslogic_orchestrator.notify.wire import asked_of, delivery_message, route_message, state_of

Context = grpc.aio.ServicerContext[object, object]


class NotificationServicer(rpc.NotificationServiceServicer):
    """Turns messages into calls of the service, and back."""

    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications

    async def CreateNotificationRoute(
        self, request: pb.CreateNotificationRouteRequest, context: Context
    ) -> pb.CreateNotificationRouteResponse:
        route, secret = await self._notifications.create(
            request.org_id, asked_of(request.spec), request_id=request.request_id
        )
        return pb.CreateNotificationRouteResponse(route=route_message(route), secret=secret)

    async def GetNotificationRoute(
        self, request: pb.GetNotificationRouteRequest, context: Context
    ) -> pb.GetNotificationRouteResponse:
        return pb.GetNotificationRouteResponse(route=route_message(await self._notifications.route(request.route_id)))

    async def ListNotificationRoutes(
        self, request: pb.ListNotificationRoutesRequest, context: Context
    ) -> pb.ListNotificationRoutesResponse:
        found, token = await self._notifications.routes(
            request.org_id, page_size=request.page_size, token=request.page_token
        )
        return pb.ListNotificationRoutesResponse(routes=map(route_message, found), next_page_token=token)

    async def UpdateNotificationRoute(
        self, request: pb.UpdateNotificationRouteRequest, context: Context
    ) -> pb.UpdateNotificationRouteResponse:
        route, secret = await self._notifications.update(
            request.route_id, asked_of(request.spec), revision=request.revision, rotate_secret=request.rotate_secret
        )
        return pb.UpdateNotificationRouteResponse(route=route_message(route), secret=secret)

    async def DeleteNotificationRoute(
        self, request: pb.DeleteNotificationRouteRequest, context: Context
    ) -> pb.DeleteNotificationRouteResponse:
        await self._notifications.end(request.route_id)
        return pb.DeleteNotificationRouteResponse()

    async def TestNotificationRoute(
        self, request: pb.TestNotificationRouteRequest, context: Context
    ) -> pb.TestNotificationRouteResponse:
        error = await self._notifications.test(request.route_id)
        return pb.TestNotificationRouteResponse(sent=not error, error=error)

    async def ListNotificationDeliveries(
        self, request: pb.ListNotificationDeliveriesRequest, context: Context
    ) -> pb.ListNotificationDeliveriesResponse:
        found, token = await self._notifications.deliveries(
            org_id=request.org_id,
            route_id=request.route_id,
            state=state_of(request.state),
            page_size=request.page_size,
            token=request.page_token,
        )
        return pb.ListNotificationDeliveriesResponse(deliveries=map(delivery_message, found), next_page_token=token)

    async def GetNotificationDelivery(
        self, request: pb.GetNotificationDeliveryRequest, context: Context
    ) -> pb.GetNotificationDeliveryResponse:
        delivery = await self._notifications.delivery(request.delivery_id)
        return pb.GetNotificationDeliveryResponse(delivery=delivery_message(delivery))

    async def ReplayNotificationDelivery(
        self, request: pb.ReplayNotificationDeliveryRequest, context: Context
    ) -> pb.ReplayNotificationDeliveryResponse:
        delivery = await self._notifications.replay(request.delivery_id)
        return pb.ReplayNotificationDeliveryResponse(delivery=delivery_message(delivery))
