"""Notifications for tests of the admin API: routes are kept, and one delivery is a dead letter."""

from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.orchestrator.v1 import notifications_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.admin_stub import FakeStub

NOW = Timestamp(seconds=1_790_000_000)
NOTIFICATION_ID = str(UUID(int=77))
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class FakeNotifications(FakeStub):
    """Every route has the id `NOTIFICATION_ID`, so there is one at a time; so does the delivery."""

    def __init__(self) -> None:
        super().__init__()
        self.route = pb.NotificationRoute(
            id=NOTIFICATION_ID,
            spec=pb.NotificationRouteSpec(
                name="pager",
                channel=pb.NOTIFICATION_CHANNEL_WEBHOOK,
                min_severity=pb.NOTIFICATION_SEVERITY_INFO,
            ),
            shown_target="hooks.example.com",
            revision=1,
            create_time=NOW,
            update_time=NOW,
        )

    def CreateNotificationRoute(self, request: Any) -> Any:
        self.route.org_id = request.org_id
        self._keep(request.spec)
        return pb.CreateNotificationRouteResponse(route=self.route, secret=SECRET)

    def GetNotificationRoute(self, request: Any) -> Any:
        _known(request.route_id)
        return pb.GetNotificationRouteResponse(route=self.route)

    def ListNotificationRoutes(self, request: Any) -> Any:
        seen = not request.org_id or request.org_id == self.route.org_id
        return pb.ListNotificationRoutesResponse(routes=[self.route] if seen else [])

    def UpdateNotificationRoute(self, request: Any) -> Any:
        _known(request.route_id)
        if request.revision not in (0, self.route.revision):
            raise CodedError(ErrorCode.CONFLICT, "The route is at another revision.", param="revision")
        self._keep(request.spec)
        self.route.revision += 1
        return pb.UpdateNotificationRouteResponse(route=self.route, secret=SECRET if request.rotate_secret else "")

    def DeleteNotificationRoute(self, request: Any) -> Any:
        _known(request.route_id)
        return pb.DeleteNotificationRouteResponse()

    def TestNotificationRoute(self, request: Any) -> Any:
        _known(request.route_id)
        return pb.TestNotificationRouteResponse(sent=False, error="The receiver answered 500.")

    def ListNotificationDeliveries(self, request: Any) -> Any:
        seen = not request.org_id or request.org_id == self.route.org_id
        return pb.ListNotificationDeliveriesResponse(deliveries=[self._delivery()] if seen else [])

    def GetNotificationDelivery(self, request: Any) -> Any:
        _known(request.delivery_id)
        return pb.GetNotificationDeliveryResponse(delivery=self._delivery())

    def ReplayNotificationDelivery(self, request: Any) -> Any:
        _known(request.delivery_id)
        return pb.ReplayNotificationDeliveryResponse(delivery=self._delivery())

    def _keep(self, spec: Any) -> None:
        self.route.spec.CopyFrom(spec)
        self.route.spec.target = self.route.spec.secret = ""

    def _delivery(self) -> Any:
        return pb.NotificationDelivery(
            id=NOTIFICATION_ID,
            route_id=NOTIFICATION_ID,
            org_id=self.route.org_id,
            kind="node_lost",
            severity=pb.NOTIFICATION_SEVERITY_CRITICAL,
            count=3,
            state=pb.NOTIFICATION_STATE_DEAD,
            attempts=15,
            last_error="The receiver answered 500.",
            create_time=NOW,
            due_time=NOW,
            end_time=NOW,
        )


def _known(id_: str) -> None:
    if id_ != NOTIFICATION_ID:
        raise CodedError(ErrorCode.NOT_FOUND)
