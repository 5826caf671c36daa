"""ModelStoreService as the admin API's stub sees it: in memory."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.registry.v1 import model_store_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.admin_stub import FakeStub

NOW = Timestamp(seconds=1_795_000_000)


class FakeModelStore(FakeStub):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, pb.RegisteredModel] = {}

    def AddModelVersion(self, request: Any) -> Any:
        if not request.manifest.startswith(b"{"):
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "The manifest is not JSON.", param="manifest")
        return pb.AddModelVersionResponse(version=pb.ModelVersion(model="m", version="0" * 32, create_time=NOW))

    def ListModelVersions(self, request: Any) -> Any:
        return pb.ListModelVersionsResponse()

    def RegisterModel(self, request: Any) -> Any:
        model = pb.RegisteredModel(
            name=request.model.name,
            model=request.model.name,
            environment=request.environment,
            version=request.version,
            enabled=True,
            status=pb.MODEL_STATUS_NO_NODES,
            endpoint=request.endpoint,
            change_time=NOW,
        )
        self.models[model.name] = model
        return pb.RegisterModelResponse(model=model)

    def DeregisterModel(self, request: Any) -> Any:
        self._known(request.name)
        del self.models[request.name]
        return pb.DeregisterModelResponse()

    def SetModelEnabled(self, request: Any) -> Any:
        model = self._known(request.name)
        model.enabled = request.enabled
        return pb.SetModelEnabledResponse(model=model)

    def PromoteModel(self, request: Any) -> Any:
        self._known(request.model)
        return pb.PromoteModelResponse(gates=[pb.PromotionGate(name="licence", passed=True, detail="mit")])

    def RollBackModel(self, request: Any) -> Any:
        return pb.RollBackModelResponse(model=self._known(request.name))

    def ListRegisteredModels(self, request: Any) -> Any:
        return pb.ListRegisteredModelsResponse(models=self.models.values())

    def _known(self, name: str) -> pb.RegisteredModel:
        if name not in self.models:
            raise CodedError(ErrorCode.NOT_FOUND, f"{name} is not registered.", param="name")
        return self.models[name]
