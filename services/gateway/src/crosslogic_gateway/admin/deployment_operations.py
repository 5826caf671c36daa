"""The admin API's operations on deployments."""

from typing import Any

from crosslogic_gateway.admin import deployment_schemas as schemas
from crosslogic_gateway.admin import deployments
from crosslogic_gateway.admin.operation import Operation

_TAG = "Deployments"
DEPLOYMENT_OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        method="POST",
        path="/admin/deployments",
        name="createDeployment",
        summary="Say how many machines a model has at a place",
        tag=_TAG,
        handle=deployments.create_deployment,
        body=schemas.NewDeployment,
        answer=schemas.ScaledDeployment,
        status=201,
        errors=(404, 415),
    ),
    Operation(
        method="GET",
        path="/admin/deployments",
        name="listDeployments",
        summary="List deployments with what was last decided for each",
        tag=_TAG,
        handle=deployments.list_deployments,
        answer=schemas.ScaledDeploymentList,
        errors=(404,),
    ),
    Operation(
        method="PUT",
        path="/admin/deployments/{id}",
        name="updateDeployment",
        summary="Replace what a deployment asks for",
        tag=_TAG,
        handle=deployments.update_deployment,
        body=schemas.ChangedDeployment,
        answer=schemas.ScaledDeployment,
        errors=(404, 409, 415),
    ),
    Operation(
        method="DELETE",
        path="/admin/deployments/{id}",
        name="deleteDeployment",
        summary="End a deployment; its machines are drained and ended",
        tag=_TAG,
        handle=deployments.delete_deployment,
        answer=schemas.EndedDeployment,
        errors=(404,),
    ),
    Operation(
        method="GET",
        path="/admin/deployments/{id}/plan",
        name="planDeployment",
        summary="Say what the autoscaler would do now and why; changes nothing",
        tag=_TAG,
        handle=deployments.plan_deployment,
        answer=schemas.DeploymentPlan,
        errors=(404,),
    ),
    Operation(
        method="GET",
        path="/admin/deployments/{id}/decisions",
        name="listDecisions",
        summary="List what was decided for a deployment and why, newest first",
        tag=_TAG,
        handle=deployments.list_decisions,
        query=schemas.DecisionsQuery,
        answer=schemas.DecisionList,
        errors=(404,),
    ),
)
