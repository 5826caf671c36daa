"""Ends that do not come about: somebody is told, once, and a machine that nobody can end any more can be given up."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
import structlog.testing

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import Pool, transaction
from crosslogic_orchestrator.domain import Instance, Job, Spec, Step
from crosslogic_orchestrator.ends_store import EndsStore
from crosslogic_orchestrator.jobs import end_job, launch_job
from crosslogic_orchestrator.late_ends import LATE_S, LateEnds
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.notify.sources import fleet_event
from crosslogic_orchestrator.policy import Limits
from crosslogic_orchestrator.scaling.records import EventRow
from crosslogic_orchestrator.scaling.store import ScalingStore
from crosslogic_orchestrator.service import OrchestratorService
from crosslogic_orchestrator.store import PostgresStore
from crosslogic_orchestrator.worker import Worker

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
WORDS = "AWS says: the request limit is exceeded."


class Clock:
    """Stands still."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return NOW.timestamp()


class World:
    """Two replicas, for which `aws` is configured and `azure` is not any more."""

    def __init__(self, pool: Pool, url: str) -> None:
        self.pool, self.store, self.ends = pool, PostgresStore(pool, dsn=url), EndsStore(pool)
        self.scaling, self.ids = ScalingStore(pool, ids=Uuid7Source()), Uuid7Source()
        self.metrics = Metrics()
        self.replicas = [self._replica(each) for each in (Metrics(), self.metrics)]
        self.service = OrchestratorService(
            store=self.store,
            ends=self.ends,
            fleet=None,  # type: ignore[arg-type]  # an end asks nobody
            providers=("aws",),
            clock=Clock(),
            ids=self.ids,
        )

    def _replica(self, metrics: Metrics) -> LateEnds:
        return LateEnds(
            ends=self.ends,
            providers=("aws",),
            clock=Clock(),
            metrics=OrchestratorMetrics(metrics),
            interval_s=30,
        )

    async def machine(self, provider: str, state: str = "active") -> Instance:
        """One that serves, or that is on its way."""
        spec = Spec(model="m", provider=provider, region="us-east")
        job = await self.store.add_launch(launch_job(spec, ids=self.ids, now=NOW), request_id="")
        if state == "active":
            await self.do("UPDATE jobs SET status = 'succeeded' WHERE id = %s", job.id)
            await self.do("UPDATE instances SET state = 'active' WHERE id = %s", job.instance.id)
        return await self.instance(job.instance.id)

    async def ending(self, provider: str, *, drain_timeout_s: float = 0.0) -> Job:
        """One whose end was asked for, with what its provider said when it was last tried."""
        job = end_job(await self.machine(provider), ids=self.ids, now=NOW, drain_timeout_s=drain_timeout_s)
        await self.store.add_terminate(job)
        await self.rests(job)
        return job

    async def failing(self, provider: str) -> Job:
        """A launch that failed and has not cleaned up yet."""
        launching = await self.machine(provider, "launching")
        job = await self.claimed(launching.job_id)
        assert await self.store.give_up(job, "No agent has joined.", now=NOW)
        await self.rests(job)
        return job

    async def claimed(self, job_id: str) -> Job:
        """Held by somebody who works on it."""
        await self.do("UPDATE jobs SET wake_at = '-infinity', lease_until = '-infinity' WHERE id = %s", job_id)
        job = await self.store.claim(lease_s=30)
        assert job is not None
        assert job.id == job_id
        return job

    async def rests(self, job: Job) -> None:
        """After a try that its provider refused."""
        assert await self.store.wait(await self.claimed(job.id), detail=WORDS, loaded=None, now=NOW, rest_s=3_600)

    async def pass_by(self, seconds: float) -> None:
        """By the database's clock, which alone counts."""
        await self.do("UPDATE jobs SET step_at = step_at - make_interval(secs => %s)", seconds)

    async def look(self) -> None:
        await asyncio.gather(*(replica.look_once() for replica in self.replicas))

    def shown(self, metric: str = "crosslogic_machines_not_ended") -> Mapping[str, float]:
        """By provider, as the second replica tells."""
        [found] = [each for each in self.metrics.registry.collect() if each.name == metric]
        return {sample.labels["provider"]: sample.value for sample in found.samples}

    async def events(self) -> list[EventRow]:
        return await self.scaling.events(after=0, limit=100)

    async def instance(self, instance_id: str) -> Instance:
        found = await self.store.instance(instance_id)
        assert found is not None
        return found

    async def until_waiting(self, count: int) -> None:
        """So many wait for locks of others."""
        async with asyncio.timeout(20), transaction(self.pool) as connection:
            while True:
                cursor = await connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND wait_event_type = 'Lock' AND query LIKE '%instances%'"
                )
                row = await cursor.fetchone()
                if row is not None and row[0] >= count:
                    return
                await connection.execute("SELECT pg_stat_clear_snapshot()")
                await asyncio.sleep(0.01)

    async def do(self, statement: str, *values: object) -> None:
        async with transaction(self.pool) as connection:
            await connection.execute(statement, values)


@pytest.fixture
def world(fleet_pool: Pool, pg_url: str) -> World:
    return World(fleet_pool, pg_url)


async def test_two_replicas_tell_once_of_a_machine_that_does_not_end_and_what_its_provider_said(world: World) -> None:
    job = await world.ending("aws")
    await world.pass_by(LATE_S - 30)
    await world.look()
    assert (await world.events(), world.shown()) == ([], {"aws": 0})
    await world.pass_by(60)
    for _ in range(3):
        await world.look()
    assert world.shown() == {"aws": 1}
    [row] = await world.events()
    assert (row.kind, row.instance_id) == ("machine_not_ended", job.instance.id)
    assert (row.details["provider"], row.details["last_words"]) == ("aws", WORDS)
    for said in (job.instance.id, "aws", WORDS, f"{row.details['since'][:10]}"):
        assert said in row.text
    assert "--abandon" not in row.text, "its provider is there: the end is to be made to come about"
    event = fleet_event(row)
    assert (event.title, event.severity.name) == ("A machine does not end", "CRITICAL")
    assert event.key == f"machine_not_ended:{job.instance.id}"


async def test_a_launch_that_failed_and_cannot_clean_up_is_told_of_after_its_time_and_not_before(world: World) -> None:
    launching = await world.machine("aws", "launching")
    # It has been at its step for long, and only then it fails.
    await world.pass_by(10 * LATE_S)
    job = await world.claimed(launching.job_id)
    assert await world.store.give_up(job, "No agent has joined.", now=NOW)
    await world.look()
    assert world.shown() == {"aws": 0}
    await world.pass_by(LATE_S + 30)
    await world.look()
    assert [row.kind for row in await world.events()] == ["launch_failed", "machine_not_ended"]


async def test_a_machine_that_drains_for_as_long_as_it_may_alarms_nobody(world: World) -> None:
    await world.ending("aws", drain_timeout_s=3_600)
    await world.pass_by(3_600 + LATE_S - 30)
    await world.look()
    assert (await world.events(), world.shown()) == ([], {"aws": 0})
    await world.pass_by(60)
    await world.look()
    assert world.shown() == {"aws": 1}


async def test_machines_of_a_provider_that_is_not_configured_are_shown_and_what_to_do_is_said(world: World) -> None:
    job = await world.ending("azure")
    await world.pass_by(LATE_S + 30)
    await world.look()
    assert world.shown() == {"aws": 0, "azure": 1}
    assert world.shown("crosslogic_instances") == {"azure": 1}, "no sweep counts these"
    [row] = await world.events()
    assert f"`crosslogic instances terminate {job.instance.id} --abandon`" in row.text
    await world.do("UPDATE jobs SET status = 'succeeded'")
    await world.do("UPDATE instances SET state = 'terminated', ended_at = now()")
    await world.look()
    assert world.shown() == {"aws": 0, "azure": 0}, "the alert would go on for ever"


async def test_the_log_names_a_provider_that_was_taken_out_of_the_settings_at_once_and_once(world: World) -> None:
    await world.machine("aws")
    await world.machine("azure")
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            await world.replicas[0].count_once()
    assert [(each["provider"], each["machines"]) for each in logs] == [("azure", 1)]


async def test_ends_that_waited_for_an_orchestrator_have_their_time_before_anybody_is_told(world: World) -> None:
    await world.ending("aws")
    await world.pass_by(10 * LATE_S)
    running = asyncio.create_task(world.replicas[1].run())
    try:
        async with asyncio.timeout(20):
            while world.shown() != {"aws": 1}:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert await world.events() == []


@pytest.mark.parametrize("life", ["launching", "active", "terminating", "failing"])
async def test_a_machine_whose_provider_is_gone_can_be_given_up_wherever_it_is_in_its_life(
    world: World, life: str
) -> None:
    match life:
        case "terminating":
            instance_id = (await world.ending("azure")).instance.id
        case "failing":
            instance_id = (await world.failing("azure")).instance.id
        case _:
            instance_id = (await world.machine("azure", life)).id
    job = await world.service.abandon(instance_id)
    assert (job.kind, job.status) == ("terminate", "failed"), "nobody has ended it: it is no success"
    for said in ("nobody has ended it at azure", instance_id, "us-east"):
        assert said in job.error
    assert (job.steps[-1].detail, job.logs[-1].text) == (job.error, job.error)
    assert all(step.ended_at is not None for step in job.steps)
    ended = await world.instance(instance_id)
    assert (ended.state, ended.job_id, ended.ended_at is not None) == ("terminated", job.id, True)
    event = (await world.events())[-1]
    assert (event.kind, event.instance_id, event.text) == ("machine_abandoned", instance_id, job.error)
    assert (await world.service.abandon(instance_id)).steps == job.steps
    assert (await world.service.terminate(instance_id, drain_timeout_s=0)).id == job.id
    await world.do("UPDATE jobs SET wake_at = '-infinity', lease_until = '-infinity'")
    assert await world.store.claim(lease_s=30) is None, "somebody would still work on it"
    launches = [each for each in [await world.store.job(ended.job_id)] if each is not None and each.kind == "launch"]
    assert all(each.status != "running" for each in launches)
    assert [row.kind for row in await world.events()].count("machine_abandoned") == 1


async def test_whoever_works_on_an_end_while_it_is_given_up_writes_nothing_any_more(world: World) -> None:
    ending = await world.ending("azure")
    held = await world.claimed(ending.id)
    given = await world.service.abandon(ending.instance.id)
    assert not await world.store.end(held, price_picodollars=0, now=NOW)
    assert not await world.store.wait(held, detail="here", loaded=None, now=NOW, rest_s=1)
    job = await world.service.job(ending.id)
    assert (job.status, job.error, job.steps) == ("failed", given.error, given.steps)


async def test_a_machine_is_given_up_once_however_many_ask_at_once(world: World) -> None:
    machine = await world.machine("azure")
    asked = [world.service.abandon(machine.id) for _ in range(4)]
    asked += [world.service.terminate(machine.id, drain_timeout_s=0) for _ in range(2)]
    jobs = await asyncio.gather(*asked)
    assert len({job.id for job in jobs}) == 1
    assert [row.kind for row in await world.events()] == ["machine_abandoned"]
    assert (await world.service.job(jobs[0].id)).status == "failed"


@pytest.mark.parametrize("other", ["it ends", "it is given up"])
async def test_an_end_that_is_asked_for_again_while_it_comes_about_keeps_nobody_waiting_for_the_other(
    world: World, other: str
) -> None:
    ending = await world.ending("azure")
    held = await world.claimed(ending.id)
    async with transaction(world.pool) as connection:
        await connection.execute("SELECT 1 FROM instances FOR NO KEY UPDATE")
        again = asyncio.create_task(world.service.terminate(ending.instance.id, drain_timeout_s=0))
        await world.until_waiting(1)
        if other == "it ends":
            done = asyncio.create_task(world.store.end(held, price_picodollars=0, now=NOW))
        else:
            done = asyncio.create_task(given_up(world, ending))
        await world.until_waiting(2)
    # A deadlock is UNAVAILABLE for one of the two.
    assert (await again).id == ending.id
    assert await done
    assert (await world.instance(ending.instance.id)).state == "terminated"


async def given_up(world: World, ending: Job) -> bool:
    return (await world.service.abandon(ending.instance.id)).id == ending.id


@pytest.mark.parametrize("life", ["launching", "active", "terminating"])
async def test_no_machine_is_given_up_by_accident_where_its_provider_can_end_it(world: World, life: str) -> None:
    instance = (await world.ending("aws")).instance if life == "terminating" else await world.machine("aws", life)
    with pytest.raises(CodedError) as refused:
        await world.service.abandon(instance.id)
    assert refused.value.code == ErrorCode.CONFLICT
    assert "terminate it without `abandon`" in refused.value.public
    assert (await world.instance(instance.id)).state == life
    assert await world.events() == []


async def test_a_machine_that_is_gone_is_not_given_up(world: World) -> None:
    machine = await world.machine("azure")
    assert await world.store.lose(machine.id, now=NOW)
    with pytest.raises(CodedError, match="lost already") as refused:
        await world.service.abandon(machine.id)
    assert refused.value.code == ErrorCode.CONFLICT
    with pytest.raises(CodedError) as unknown:
        await world.service.abandon(world.ids.next_text())
    assert unknown.value.code == ErrorCode.NOT_FOUND


async def test_an_end_that_came_about_stays_as_it_is(world: World) -> None:
    ending = await world.ending("azure")
    held = await world.claimed(ending.id)
    assert await world.store.end(held, price_picodollars=0, now=NOW)
    job = await world.service.abandon(ending.instance.id)
    assert (job.id, job.status, job.error) == (ending.id, "succeeded", "")


@pytest.mark.parametrize("was_asked", [False, True])
async def test_a_launch_whose_provider_is_gone_ends_by_itself_only_where_that_was_never_asked(
    world: World, was_asked: bool
) -> None:
    launching = await world.machine("azure", "launching")
    step = Step.REQUESTED if was_asked else Step.TASK_WRITTEN
    await world.do("UPDATE jobs SET step = %s", step)
    await world.pass_by(101)
    worker = Worker(
        store=world.store,
        fleet=None,  # type: ignore[arg-type]  # nothing is asked of it
        providers={},
        clock=Clock(),
        limits=Limits(provision_s=100, load_s=100),
        metrics=OrchestratorMetrics(Metrics()),
    )
    for _ in range(3):
        await world.do("UPDATE jobs SET wake_at = '-infinity'")
        await worker.work_once()
    job = await world.service.job(launching.job_id)
    assert "There is no provider azure any more" in job.error
    assert f"{launching.id} --abandon" in job.error
    assert job.status == ("running" if was_asked else "failed"), "there may be a machine only where it was asked for"
    if was_asked:
        await world.service.abandon(launching.id)
        assert (await world.service.job(job.id)).error == job.error, "why it failed is lost"
    found = await world.service.job(job.id)
    assert (found.status, found.instance.state) == ("failed", "terminated")
