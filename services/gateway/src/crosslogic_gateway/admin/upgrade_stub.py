"""ModelUpgradeService as the admin API needs it."""

from typing import Protocol

from crosslogic.registry.v1 import upgrades_pb2 as pb
from crosslogic_gateway.admin.deps import Rpc


class UpgradeStub(Protocol):
    """crosslogic.registry.v1.ModelUpgradeService."""

    @property
    def CreateModelUpgrade(self) -> Rpc[pb.CreateModelUpgradeRequest, pb.CreateModelUpgradeResponse]: ...  # noqa: D102
    @property
    def GetModelUpgrade(self) -> Rpc[pb.GetModelUpgradeRequest, pb.GetModelUpgradeResponse]: ...  # noqa: D102
    @property
    def ListModelUpgrades(self) -> Rpc[pb.ListModelUpgradesRequest, pb.ListModelUpgradesResponse]: ...  # noqa: D102
    @property
    def RollBackModelUpgrade(  # noqa: D102
        self,
    ) -> Rpc[pb.RollBackModelUpgradeRequest, pb.RollBackModelUpgradeResponse]: ...
