"""OrchestratorService over gRPC."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio

from crosslogic.orchestrator.v1 import orchestrator_pb2 as pb
from crosslogic.orchestrator.v1 import orchestrator_pb2_grpc as rpc
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_orchestrator.domain import Instance, InstanceState, Job, JobKind, JobStatus, Spec
from crosslogic_orchestrator.service import OrchestratorService
from crosslogic_orchestrator.watching import JobChanges, SharedReads

Context = grpc.aio.ServicerContext[object, object]

DEFAULT_DRAIN_S = 120.0
_LOOK_AGAIN_S = 5.0
_STATUS: dict[JobStatus, "pb.JobStatus.ValueType"] = {
    "running": pb.JOB_STATUS_RUNNING,
    "succeeded": pb.JOB_STATUS_SUCCEEDED,
    "failed": pb.JOB_STATUS_FAILED,
}
_KIND: dict[JobKind, "pb.JobKind.ValueType"] = {"launch": pb.JOB_KIND_LAUNCH, "terminate": pb.JOB_KIND_TERMINATE}
_STATE: dict[InstanceState, "pb.InstanceState.ValueType"] = {
    "launching": pb.INSTANCE_STATE_LAUNCHING,
    "active": pb.INSTANCE_STATE_ACTIVE,
    "terminating": pb.INSTANCE_STATE_TERMINATING,
    "terminated": pb.INSTANCE_STATE_TERMINATED,
    "lost": pb.INSTANCE_STATE_LOST,
}


class OrchestratorServicer(rpc.OrchestratorServiceServicer):
    """Turns messages into calls of the service, and back."""

    def __init__(self, *, service: OrchestratorService, changes: JobChanges) -> None:
        self._service = service
        self._changes = changes
        self._watched = SharedReads(service.job)

    async def LaunchInstance(self, request: pb.LaunchInstanceRequest, context: Context) -> pb.LaunchInstanceResponse:
        spec = request.spec
        asked = Spec(
            model=spec.model,
            provider=spec.provider,
            region=spec.region,
            instance_type=spec.instance_type,
            use_spot=spec.use_spot,
            org_id=spec.org_id,
        )
        return pb.LaunchInstanceResponse(job=_job(await self._service.launch(asked, request_id=request.request_id)))

    async def TerminateInstance(
        self, request: pb.TerminateInstanceRequest, context: Context
    ) -> pb.TerminateInstanceResponse:
        if request.abandon:
            return pb.TerminateInstanceResponse(job=_job(await self._service.abandon(request.instance_id)))
        drain_s = DEFAULT_DRAIN_S
        if request.HasField("drain_timeout"):
            drain_s = request.drain_timeout.seconds + request.drain_timeout.nanos / 1e9
        return pb.TerminateInstanceResponse(
            job=_job(await self._service.terminate(request.instance_id, drain_timeout_s=drain_s))
        )

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=_job(await self._service.job(request.job_id)))

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> AsyncIterator[pb.WatchJobResponse]:
        with self._changes.watched(request.job_id) as changed:
            said: pb.Job | None = None
            while True:
                changed.clear()
                job = await self._watched.job(request.job_id)
                message = _job(job)
                if message != said:
                    yield pb.WatchJobResponse(job=message)
                    said = message
                if job.status != "running":
                    return
                if self._changes.closed:
                    raise CodedError(ErrorCode.UNAVAILABLE, "The service is stopping: ask again.")
                try:
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await changed.wait()
                except TimeoutError:
                    # A notice may be lost with its connection: the job is looked at now and then all the same.
                    continue

    async def ListInstances(self, request: pb.ListInstancesRequest, context: Context) -> pb.ListInstancesResponse:
        found, token = await self._service.instances(
            page_size=request.page_size, page_token=request.page_token, include_ended=request.include_ended
        )
        return pb.ListInstancesResponse(instances=map(_instance, found), next_page_token=token)

    async def GetInstance(self, request: pb.GetInstanceRequest, context: Context) -> pb.GetInstanceResponse:
        return pb.GetInstanceResponse(instance=_instance(await self._service.instance(request.instance_id)))


def _job(job: Job) -> pb.Job:
    return pb.Job(
        id=job.id,
        kind=_KIND[job.kind],
        instance_id=job.instance.id,
        status=_STATUS[job.status],
        error=job.error,
        create_time=timestamp(job.created_at),
        update_time=timestamp(job.updated_at),
        steps=[
            pb.StepProgress(
                step=int(step.step),  # type: ignore[arg-type]  # the same numbers
                start_time=timestamp(step.started_at),
                end_time=None if step.ended_at is None else timestamp(step.ended_at),
                detail=step.detail,
                bytes_done=step.bytes_done,
                bytes_total=step.bytes_total,
            )
            for step in job.steps
        ],
        logs=[pb.JobLogLine(time=timestamp(line.at), source=line.source, text=line.text) for line in job.logs],
    )


def _instance(instance: Instance) -> pb.Instance:
    spec = instance.spec
    return pb.Instance(
        id=instance.id,
        spec=pb.InstanceSpec(
            model=spec.model,
            provider=spec.provider,
            region=spec.region,
            instance_type=spec.instance_type,
            use_spot=spec.use_spot,
            org_id=spec.org_id,
        ),
        state=_STATE[instance.state],
        node_id=instance.id,
        hourly_price_picodollars=instance.hourly_price_picodollars,
        create_time=timestamp(instance.created_at),
        end_time=None if instance.ended_at is None else timestamp(instance.ended_at),
        job_id=instance.job_id,
    )
