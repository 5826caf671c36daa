"""An orchestrator for tests of the admin API: one machine, whose launch takes three messages."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.orchestrator.v1 import orchestrator_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.admin_stub import FakeStub, rpc_error

NOW = Timestamp(seconds=1_790_000_000)
JOB_ID = str(UUID(int=7))
INSTANCE_ID = str(UUID(int=8))
"""Of a provider that is not configured any more."""
CONFIGURED_ID = str(UUID(int=9))
"""Of one that is, and ends it."""


def job(*steps: int, status: int = pb.JOB_STATUS_RUNNING, kind: int = pb.JOB_KIND_LAUNCH) -> pb.Job:
    """A job at the last of the steps."""
    return pb.Job(
        id=JOB_ID,
        kind=kind,  # type: ignore[arg-type]
        instance_id=INSTANCE_ID,
        status=status,  # type: ignore[arg-type]
        create_time=NOW,
        update_time=NOW,
        logs=[pb.JobLogLine(time=NOW, source="engine", text="CUDA out of memory")],
        steps=[
            pb.StepProgress(step=step, start_time=NOW, end_time=None if step == steps[-1] else NOW, detail="well")  # type: ignore[arg-type]
            for step in steps
        ],
    )


class FakeOrchestrator(FakeStub):
    """Knows one job and one machine."""

    known: pb.Job | None = None
    """The job, as a test wants it to be."""

    def LaunchInstance(self, request: Any) -> Any:
        if request.spec.model == "unknown":
            raise CodedError(ErrorCode.NOT_FOUND, "The catalogue has no model unknown.", param="model_name")
        return pb.LaunchInstanceResponse(job=job(pb.JOB_STEP_VALIDATED))

    def TerminateInstance(self, request: Any) -> Any:
        if request.abandon and request.instance_id == CONFIGURED_ID:
            raise CodedError(ErrorCode.CONFLICT, "Terminate it without `abandon`.", param="abandon")
        _known(request.instance_id, INSTANCE_ID)
        ending = job(pb.JOB_STEP_DRAINING, kind=pb.JOB_KIND_TERMINATE)
        if request.abandon:
            ending.status, ending.error = pb.JOB_STATUS_FAILED, "[b]nobody has ended it[/b] at azure"
        return pb.TerminateInstanceResponse(job=ending)

    def GetJob(self, request: Any) -> Any:
        _known(request.job_id, JOB_ID)
        return pb.GetJobResponse(job=self.known or job(pb.JOB_STEP_VALIDATED, pb.JOB_STEP_TASK_WRITTEN))

    def ListInstances(self, request: Any) -> Any:
        instance = pb.Instance(
            id=INSTANCE_ID,
            spec=pb.InstanceSpec(model="m", provider="local", region="us-east"),
            state=pb.INSTANCE_STATE_ACTIVE,
            node_id=INSTANCE_ID,
            hourly_price_picodollars=2_500_000_000_000,
            create_time=NOW,
            job_id=JOB_ID,
        )
        return pb.ListInstancesResponse(instances=[instance])

    def __getattribute__(self, name: str) -> Any:
        if name != "WatchJob":
            return super().__getattribute__(name)
        return self._watch

    async def _watch(
        self, request: pb.WatchJobRequest, /, *, metadata: Any = None
    ) -> AsyncIterator[pb.WatchJobResponse]:
        if self.fails is not None:
            raise self.fails
        if request.job_id != JOB_ID:
            raise rpc_error(CodedError(ErrorCode.NOT_FOUND, "There is no such job."))
        yield pb.WatchJobResponse(job=job(1))
        yield pb.WatchJobResponse(job=job(1, 2, 3))
        yield pb.WatchJobResponse(job=job(1, 2, 3, 4, 5, 6, 7, 8, 9, status=pb.JOB_STATUS_SUCCEEDED))


def _known(asked: str, there: str) -> None:
    if asked != there:
        raise CodedError(ErrorCode.NOT_FOUND, "There is no such thing.")
