"""NotificationService as the admin API needs it."""

from typing import Protocol

from crosslogic.orchestrator.v1 import notifications_pb2 as pb
from crosslogic_gateway.admin.deps import Rpc


class NotificationStub(Protocol):
    """crosslogic.orchestrator.v1.NotificationService."""

    @property
    def CreateNotificationRoute(  # noqa: D102
        self,
    ) -> Rpc[pb.CreateNotificationRouteRequest, pb.CreateNotificationRouteResponse]: ...
    @property
    def GetNotificationRoute(  # noqa: D102
        self,
    ) -> Rpc[pb.GetNotificationRouteRequest, pb.GetNotificationRouteResponse]: ...
    @property
    def ListNotificationRoutes(  # noqa: D102
        self,
    ) -> Rpc[pb.ListNotificationRoutesRequest, pb.ListNotificationRoutesResponse]: ...
    @property
    def UpdateNotificationRoute(  # noqa: D102
        self,
    ) -> Rpc[pb.UpdateNotificationRouteRequest, pb.UpdateNotificationRouteResponse]: ...
    @property
    def DeleteNotificationRoute(  # noqa: D102
        self,
    ) -> Rpc[pb.DeleteNotificationRouteRequest, pb.DeleteNotificationRouteResponse]: ...
    @property
    def TestNotificationRoute(  # noqa: D102
        self,
    ) -> Rpc[pb.TestNotificationRouteRequest, pb.TestNotificationRouteResponse]: ...
    @property
    def ListNotificationDeliveries(  # noqa: D102
        self,
    ) -> Rpc[pb.ListNotificationDeliveriesRequest, pb.ListNotificationDeliveriesResponse]: ...
    @property
    def GetNotificationDelivery(  # noqa: D102
        self,
    ) -> Rpc[pb.GetNotificationDeliveryRequest, pb.GetNotificationDeliveryResponse]: ...
    @property
    def ReplayNotificationDelivery(  # noqa: D102
        self,
    ) -> Rpc[pb.ReplayNotificationDeliveryRequest, pb.ReplayNotificationDeliveryResponse]: ...
