"""The admin API's operations on machines."""

from typing import Any

from crosslogic_gateway.admin import instance_schemas as schemas
from crosslogic_gateway.admin import instances
from crosslogic_gateway.admin.operation import Operation

INSTANCE_OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        method="POST",
        path="/admin/instances/launch",
        name="launchInstance",
        summary="Launch a machine that serves a model; answers at once with the job that sees to it",
        tag="Instances",
        handle=instances.launch_instance,
        body=schemas.NewInstance,
        answer=schemas.InstanceJob,
        status=202,
        idempotent_by_key=True,
        errors=(404, 415),
    ),
    Operation(
        method="GET",
        path="/admin/instances",
        name="listInstances",
        summary="List machines, newest first",
        tag="Instances",
        handle=instances.list_instances,
        query=schemas.InstancesQuery,
        answer=schemas.InstanceList,
        errors=(404,),
    ),
    Operation(
        method="GET",
        path="/admin/instances/{job}",
        name="getInstanceJob",
        summary="Get a job with its steps so far",
        tag="Instances",
        handle=instances.get_job,
        answer=schemas.InstanceJob,
        errors=(404,),
    ),
    Operation(
        method="GET",
        path="/admin/instances/{job}/events",
        name="watchInstanceJob",
        summary="Follow a job: server-sent events, one each time that it changes, until it has ended",
        tag="Instances",
        handle=instances.get_job,
        events=instances.watch_job,
        answer=schemas.InstanceJob,
        errors=(404,),
    ),
    Operation(
        method="POST",
        path="/admin/instances/{id}/terminate",
        name="terminateInstance",
        summary="End a machine: drained, out of the pool, deleted",
        tag="Instances",
        handle=instances.terminate_instance,
        body=schemas.InstanceEnd,
        body_optional=True,
        answer=schemas.InstanceJob,
        status=202,
        errors=(404, 415),
    ),
)
