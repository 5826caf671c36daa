"""Many who watch a job: each sees how it ends, and all of them together ask the database a few times only."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from crosslogic.orchestrator.v1 import orchestrator_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_orchestrator.domain import Job, Spec
from crosslogic_orchestrator.jobs import launch_job
from crosslogic_orchestrator.servicer import OrchestratorServicer
from crosslogic_orchestrator.watching import JobChanges

WATCHERS = 1_000


class Jobs:
    """One job, which somebody changes, and how often it was read."""

    def __init__(self) -> None:
        self.known = launch_job(
            Spec(model="m", provider="local", region="r"), ids=Uuid7Source(), now=datetime(2026, 11, 21, tzinfo=UTC)
        )
        self.reads = 0
        self.notices: asyncio.Queue[str] = asyncio.Queue()

    async def job(self, job_id: str) -> Job:
        self.reads += 1
        found = self.known
        await asyncio.sleep(0)
        if job_id != found.id:
            raise CodedError(ErrorCode.NOT_FOUND)
        return found

    async def changes(self) -> AsyncIterator[str | None]:
        while True:
            yield await self.notices.get()

    def change(self, job: Job) -> None:
        self.known = job
        self.notices.put_nowait(job.id)


async def test_a_thousand_watchers_of_a_launch_take_no_connections_from_it() -> None:
    jobs, changes = Jobs(), JobChanges(wake=asyncio.Event())
    servicer = OrchestratorServicer(service=jobs, changes=changes)  # type: ignore[arg-type]  # all that it asks for
    following = asyncio.create_task(changes.follow(jobs.changes()))
    seen = [0] * WATCHERS

    async def watch(number: int) -> pb.Job:
        context: Any = None
        last = pb.Job()
        async for message in servicer.WatchJob(pb.WatchJobRequest(job_id=jobs.known.id), context):
            seen[number] += 1
            last = message.job
        return last

    watching = [asyncio.create_task(watch(number)) for number in range(WATCHERS)]
    async with asyncio.timeout(60):
        while min(seen) < 1:
            await asyncio.sleep(0)
        # Some leave while the others' look is under way.
        for task in watching[:10]:
            task.cancel()
        jobs.change(replace(jobs.known, error="no room"))
        while min(seen[10:]) < 2:
            await asyncio.sleep(0)
        jobs.change(replace(jobs.known, status="failed"))
        ends = await asyncio.gather(*watching[10:])
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    assert {(end.status, end.error) for end in ends} == {(pb.JOB_STATUS_FAILED, "no room")}
    assert jobs.reads < WATCHERS / 10


async def test_who_watches_what_is_not_there_is_told_so() -> None:
    jobs = Jobs()
    servicer = OrchestratorServicer(service=jobs, changes=JobChanges(wake=asyncio.Event()))  # type: ignore[arg-type]
    context: Any = None
    for _ in range(2):
        with pytest.raises(CodedError) as caught:
            await anext(servicer.WatchJob(pb.WatchJobRequest(job_id="none"), context))
        assert caught.value.code is ErrorCode.NOT_FOUND
