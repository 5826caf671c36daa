"""ModelUpgradeService as the admin API's stub sees it: in memory."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.registry.v1 import upgrades_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.admin_stub import FakeStub

NOW = Timestamp(seconds=1_795_000_000)


class FakeUpgrades(FakeStub):
    """Keeps what it is told; nothing moves by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.upgrades: dict[str, pb.ModelUpgrade] = {}

    def CreateModelUpgrade(self, request: Any) -> Any:
        if request.model == "unknown":
            raise CodedError(ErrorCode.NOT_FOUND, "The catalogue has no such model.", param="model")
        upgrade = pb.ModelUpgrade(
            id=request.request_id,
            model=request.model,
            from_version=request.from_version if request.HasField("from_version") else "v1",
            to_version=request.to_version,
            phase=pb.UPGRADE_PHASE_WAITING,
            reason="started",
            rules=request.rules,
            create_time=NOW,
            change_time=NOW,
        )
        return pb.CreateModelUpgradeResponse(upgrade=self.upgrades.setdefault(upgrade.id, upgrade))

    def GetModelUpgrade(self, request: Any) -> Any:
        return pb.GetModelUpgradeResponse(upgrade=self._known(request.id))

    def ListModelUpgrades(self, request: Any) -> Any:
        found = [each for each in self.upgrades.values() if each.model == request.model]
        return pb.ListModelUpgradesResponse(upgrades=found)

    def RollBackModelUpgrade(self, request: Any) -> Any:
        upgrade = self._known(request.id)
        upgrade.phase, upgrade.reason = pb.UPGRADE_PHASE_ROLLED_BACK, request.reason
        return pb.RollBackModelUpgradeResponse(upgrade=upgrade)

    def _known(self, id_: str) -> pb.ModelUpgrade:
        if id_ not in self.upgrades:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such upgrade.")
        return self.upgrades[id_]
