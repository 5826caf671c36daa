"""Machines: launched, watched, ended."""

from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any, get_args

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from crosslogic.orchestrator.v1 import orchestrator_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_gateway.admin import instance_schemas as schemas
from crosslogic_gateway.admin.conversion import optional_time, text_or_none, time
from crosslogic_gateway.admin.deps import OrchestratorStub
from crosslogic_gateway.admin.operation import Call

_PICODOLLARS = Decimal(10**12)
_JOB_STATES: dict[int, schemas.JobState] = {
    pb.JOB_STATUS_RUNNING: "running",
    pb.JOB_STATUS_SUCCEEDED: "succeeded",
    pb.JOB_STATUS_FAILED: "failed",
}
_STEPS: dict[int, schemas.StepName] = dict(enumerate(get_args(schemas.StepName), start=1))
_STATES: dict[int, schemas.InstanceStateName] = dict(enumerate(get_args(schemas.InstanceStateName), start=1))


async def launch_instance(call: Call[schemas.NewInstance, None]) -> schemas.InstanceJob:
    """POST /admin/instances/launch."""
    body = call.body
    spec = pb.InstanceSpec(
        model=body.model_name,
        provider=body.provider,
        region=body.region,
        instance_type=body.instance_type,
        use_spot=body.use_spot,
        org_id=body.org_id,
    )
    request = pb.LaunchInstanceRequest(spec=spec, request_id=call.create_request_id("instance"))
    return _job((await call.rpc(_orchestrator(call).LaunchInstance, request)).job)


async def terminate_instance(call: Call[schemas.InstanceEnd, None]) -> schemas.InstanceJob:
    """POST /admin/instances/{id}/terminate."""
    drain = Duration()
    drain.FromMilliseconds(round(call.body.drain_timeout_s * 1000))
    request = pb.TerminateInstanceRequest(instance_id=call.path["id"], drain_timeout=drain, abandon=call.body.abandon)
    return _job((await call.rpc(_orchestrator(call).TerminateInstance, request)).job)


async def get_job(call: Call[None, None]) -> schemas.InstanceJob:
    """GET /admin/instances/{job}."""
    return _job((await call.rpc(_orchestrator(call).GetJob, pb.GetJobRequest(job_id=call.path["job"]))).job)


async def watch_job(call: Call[None, None]) -> AsyncGenerator[schemas.InstanceJob, None]:
    """GET /admin/instances/{job}/events."""
    stream = _orchestrator(call).WatchJob(
        pb.WatchJobRequest(job_id=call.path["job"]), metadata=(("x-request-id", call.request_id),)
    )
    try:
        async for message in stream:
            yield _job(message.job)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def list_instances(call: Call[None, schemas.InstancesQuery]) -> schemas.InstanceList:
    """GET /admin/instances."""
    query = call.query
    request = pb.ListInstancesRequest(
        page_size=query.page_size, page_token=query.page_token, include_ended=query.include_ended
    )
    page = await call.rpc(_orchestrator(call).ListInstances, request)
    return schemas.InstanceList(
        data=[_instance(instance) for instance in page.instances], next_page_token=text_or_none(page.next_page_token)
    )


def _orchestrator(call: Call[Any, Any]) -> OrchestratorStub:
    if call.deps.orchestrator is None:
        raise CodedError(
            ErrorCode.NOT_SUPPORTED, "This gateway has no orchestrator: set CROSSLOGIC_ORCHESTRATOR_TARGET."
        )
    return call.deps.orchestrator()


def _job(job: pb.Job) -> schemas.InstanceJob:
    return schemas.InstanceJob(
        id=job.id,
        kind="launch" if job.kind == pb.JOB_KIND_LAUNCH else "terminate",
        instance_id=job.instance_id,
        status=_JOB_STATES[job.status],
        steps=[
            schemas.JobStepProgress(
                step=_STEPS[each.step],
                start_time=time(each.start_time),
                end_time=optional_time(each, "end_time"),
                detail=each.detail,
                bytes_done=each.bytes_done,
                bytes_total=each.bytes_total,
            )
            for each in job.steps
        ],
        error=job.error,
        logs=[schemas.JobLogLine(time=time(line.time), source=line.source, text=line.text) for line in job.logs],
        create_time=time(job.create_time),
        update_time=time(job.update_time),
    )


def _instance(instance: pb.Instance) -> schemas.Instance:
    spec = instance.spec
    return schemas.Instance(
        id=instance.id,
        model_name=spec.model,
        provider=spec.provider,
        region=spec.region,
        instance_type=spec.instance_type,
        use_spot=spec.use_spot,
        org_id=spec.org_id or None,
        state=_STATES[instance.state],
        node_id=instance.node_id,
        hourly_price_usd=format((Decimal(instance.hourly_price_picodollars) / _PICODOLLARS).normalize(), "f"),
        job_id=instance.job_id,
        create_time=time(instance.create_time),
        end_time=optional_time(instance, "end_time"),
    )
