"""Deployments for tests of the admin API: one, for which one machine was launched."""

from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.orchestrator.v1 import deployments_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.admin_stub import FakeStub

NOW = Timestamp(seconds=1_790_000_000)
DEPLOYMENT_ID = str(UUID(int=9))


def decision(sequence: int) -> pb.Decision:
    """One that launches a machine."""
    launch = pb.PlannedLaunch(provider="aws", region="us-east", use_spot=True, price_picodollars=10**12, why="min: 1")
    need = pb.ScaleNeed(signal="min", nodes=1, why="`min_nodes` is 1")
    return pb.Decision(sequence=sequence, time=NOW, desired=1, kept=0, needs=[need], launches=[launch])


class FakeDeployments(FakeStub):
    """Keeps what it was last asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = pb.Deployment(
            id=DEPLOYMENT_ID,
            revision=1,
            create_time=NOW,
            update_time=NOW,
            spec=pb.DeploymentSpec(
                model="m",
                region="us-east",
                max_nodes=1,
                strategy=pb.PLACEMENT_STRATEGY_COST,
                mode=pb.DEPLOYMENT_MODE_ACTIVE,
            ),
        )

    def CreateDeployment(self, request: Any) -> Any:
        if request.spec.model == "unknown":
            raise CodedError(ErrorCode.NOT_FOUND, "The catalogue has no model unknown.", param="model")
        self.kept.spec.CopyFrom(request.spec)
        return pb.CreateDeploymentResponse(deployment=self.kept)

    def ListDeployments(self, request: Any) -> Any:
        listed = pb.Deployment()
        listed.CopyFrom(self.kept)
        listed.decision.CopyFrom(decision(7))
        return pb.ListDeploymentsResponse(deployments=[listed])

    def UpdateDeployment(self, request: Any) -> Any:
        _known(request.deployment_id)
        if request.revision not in (0, self.kept.revision):
            raise CodedError(ErrorCode.CONFLICT, "The deployment is at revision 1.", param="revision")
        self.kept.spec.CopyFrom(request.spec)
        return pb.UpdateDeploymentResponse(deployment=self.kept)

    def DeleteDeployment(self, request: Any) -> Any:
        _known(request.deployment_id)
        return pb.DeleteDeploymentResponse()

    def PlanDeployment(self, request: Any) -> Any:
        _known(request.deployment_id)
        return pb.PlanDeploymentResponse(decision=decision(0), offers=decision(0).launches)

    def ListDecisions(self, request: Any) -> Any:
        _known(request.deployment_id)
        return pb.ListDecisionsResponse(decisions=[decision(7)])


def _known(deployment_id: str) -> None:
    if deployment_id != DEPLOYMENT_ID:
        raise CodedError(ErrorCode.NOT_FOUND, "There is no such deployment.")
