"""New jobs, as everybody makes them who asks for a machine or its end."""

from datetime import datetime

from crosslogic_common.ids import Uuid7Source
from crosslogic_orchestrator.domain import Instance, Job, JobKind, Spec, Step


def launch_job(spec: Spec, *, ids: Uuid7Source, now: datetime, price_picodollars: int = 0) -> Job:
    """A job that sees to a new machine; `price_picodollars` is what an hour of it is expected to cost."""
    job_id = ids.next_text()
    instance = Instance(
        id=ids.next_text(),
        spec=spec,
        state="launching",
        hourly_price_picodollars=price_picodollars,
        job_id=job_id,
        created_at=now,
        ended_at=None,
    )
    return _job(job_id, "launch", instance, Step.VALIDATED, now=now, drain_timeout_s=0.0)


def end_job(instance: Instance, *, ids: Uuid7Source, now: datetime, drain_timeout_s: float) -> Job:
    """A job that sees to a machine's end."""
    return _job(ids.next_text(), "terminate", instance, Step.DRAINING, now=now, drain_timeout_s=drain_timeout_s)


def _job(job_id: str, kind: JobKind, instance: Instance, step: Step, *, now: datetime, drain_timeout_s: float) -> Job:
    return Job(
        id=job_id,
        kind=kind,
        instance=instance,
        status="running",
        step=step,
        step_at=now,
        read_at=now,
        task="",
        error="",
        drain_timeout_s=drain_timeout_s,
        created_at=now,
        updated_at=now,
        epoch=0,
    )
