"""DeploymentService as the admin API needs it."""

from typing import Protocol

from crosslogic.orchestrator.v1 import deployments_pb2 as pb
from crosslogic_gateway.admin.deps import Rpc


class DeploymentStub(Protocol):
    """crosslogic.orchestrator.v1.DeploymentService, as far as operators need it."""

    @property
    def CreateDeployment(self) -> Rpc[pb.CreateDeploymentRequest, pb.CreateDeploymentResponse]: ...  # noqa: D102
    @property
    def ListDeployments(self) -> Rpc[pb.ListDeploymentsRequest, pb.ListDeploymentsResponse]: ...  # noqa: D102
    @property
    def UpdateDeployment(self) -> Rpc[pb.UpdateDeploymentRequest, pb.UpdateDeploymentResponse]: ...  # noqa: D102
    @property
    def DeleteDeployment(self) -> Rpc[pb.DeleteDeploymentRequest, pb.DeleteDeploymentResponse]: ...  # noqa: D102
    @property
    def PlanDeployment(self) -> Rpc[pb.PlanDeploymentRequest, pb.PlanDeploymentResponse]: ...  # noqa: D102
    @property
    def ListDecisions(self) -> Rpc[pb.ListDecisionsRequest, pb.ListDecisionsResponse]: ...  # noqa: D102
