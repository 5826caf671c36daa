"""ModelStoreService as the admin API needs it."""

from typing import Protocol

from crosslogic.registry.v1 import model_store_pb2 as pb
from crosslogic_gateway.admin.deps import Rpc


class ModelStoreStub(Protocol):
    """crosslogic.registry.v1.ModelStoreService."""

    @property
    def AddModelVersion(self) -> Rpc[pb.AddModelVersionRequest, pb.AddModelVersionResponse]: ...  # noqa: D102
    @property
    def ListModelVersions(self) -> Rpc[pb.ListModelVersionsRequest, pb.ListModelVersionsResponse]: ...  # noqa: D102
    @property
    def RegisterModel(self) -> Rpc[pb.RegisterModelRequest, pb.RegisterModelResponse]: ...  # noqa: D102
    @property
    def DeregisterModel(self) -> Rpc[pb.DeregisterModelRequest, pb.DeregisterModelResponse]: ...  # noqa: D102
    @property
    def SetModelEnabled(self) -> Rpc[pb.SetModelEnabledRequest, pb.SetModelEnabledResponse]: ...  # noqa: D102
    @property
    def PromoteModel(self) -> Rpc[pb.PromoteModelRequest, pb.PromoteModelResponse]: ...  # noqa: D102
    @property
    def RollBackModel(self) -> Rpc[pb.RollBackModelRequest, pb.RollBackModelResponse]: ...  # noqa: D102
    @property
    def ListRegisteredModels(  # noqa: D102
        self,
    ) -> Rpc[pb.ListRegisteredModelsRequest, pb.ListRegisteredModelsResponse]: ...
