"""DeploymentService over gRPC."""

import grpc.aio

from crosslogic.orchestrator.v1 import deployments_pb2 as pb
from crosslogic.orchestrator.v1 import deployments_pb2_grpc as rpc
from crosslogic_orchestrator.scaling.messages import (
    decision_message,
    deployment_from,
    deployment_message,
    duration,
    event_message,
    offer_message,
    plan_message,
)
from crosslogic_orchestrator.scaling.service import Deployments

Context = grpc.aio.ServicerContext[object, object]
_OFFERS_SHOWN = 50


class DeploymentServicer(rpc.DeploymentServiceServicer):
    """Turns messages into calls of the service, and back."""

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments

    async def CreateDeployment(
        self, request: pb.CreateDeploymentRequest, context: Context
    ) -> pb.CreateDeploymentResponse:
        kept = await self._deployments.create(deployment_from(request.spec))
        return pb.CreateDeploymentResponse(deployment=deployment_message(kept))

    async def ListDeployments(self, request: pb.ListDeploymentsRequest, context: Context) -> pb.ListDeploymentsResponse:
        found = await self._deployments.all()
        return pb.ListDeploymentsResponse(deployments=[deployment_message(*each) for each in found])

    async def UpdateDeployment(
        self, request: pb.UpdateDeploymentRequest, context: Context
    ) -> pb.UpdateDeploymentResponse:
        kept = await self._deployments.update(
            request.deployment_id, deployment_from(request.spec), revision=request.revision
        )
        return pb.UpdateDeploymentResponse(deployment=deployment_message(kept))

    async def DeleteDeployment(
        self, request: pb.DeleteDeploymentRequest, context: Context
    ) -> pb.DeleteDeploymentResponse:
        await self._deployments.end(request.deployment_id)
        return pb.DeleteDeploymentResponse()

    async def PlanDeployment(self, request: pb.PlanDeploymentRequest, context: Context) -> pb.PlanDeploymentResponse:
        asked = deployment_from(request.spec) if request.HasField("spec") else None
        snapshot, plan = await self._deployments.plan(request.deployment_id, asked)
        return pb.PlanDeploymentResponse(
            decision=plan_message(plan, snapshot.now),
            offers=[offer_message(offer) for offer in snapshot.offers[:_OFFERS_SHOWN]],
        )

    async def ListDecisions(self, request: pb.ListDecisionsRequest, context: Context) -> pb.ListDecisionsResponse:
        rows, token = await self._deployments.decisions(
            request.deployment_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListDecisionsResponse(decisions=map(decision_message, rows), next_page_token=token)

    async def ReportWaiting(self, request: pb.ReportWaitingRequest, context: Context) -> pb.ReportWaitingResponse:
        hold = await self._deployments.hold(
            model=request.model, region=request.region, waiting=request.waiting, reporter=request.reporter
        )
        return pb.ReportWaitingResponse(
            max_wait=duration(hold.max_wait_s),
            max_waiting=hold.max_waiting,
            expected_start=duration(hold.expected_start_s),
        )

    async def ListFleetEvents(self, request: pb.ListFleetEventsRequest, context: Context) -> pb.ListFleetEventsResponse:
        events = await self._deployments.events(after=request.after_sequence, page_size=request.page_size)
        return pb.ListFleetEventsResponse(events=map(event_message, events))
