"""Jobs worked on over a real database, with a provider and a registry that do whatever hurts most."""

import asyncio
import errno
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import Pool
from crosslogic_orchestrator.domain import Instance, Machine, Step
from crosslogic_orchestrator.job_log import KEPT_LINES, JobLogStore
from crosslogic_orchestrator.jobs import end_job
from crosslogic_orchestrator.launch_logs import LaunchLogs
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.policy import MOST_ASKED_AGAIN
from crosslogic_orchestrator.ports import ProviderError
from crosslogic_orchestrator.sweeper import Sweeper
from tests.fakes.orchestrator_world import LANE, LIMITS, SPEC, Clock, World


@pytest.fixture
def world(fleet_pool: Pool, pg_url: str) -> World:
    return World(fleet_pool, pg_url)


async def test_a_full_disk_at_the_provider_fails_its_launch_in_words_and_no_other_job(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.REQUESTED)
    world.cloud.fails = OSError(errno.ENOSPC, "No space left on device")
    # What ended the whole orchestrator, which then took the job up again for ever.
    await world.work(2)
    detail = (await world.job(job)).steps[-1].detail
    assert "No space left on device" in detail
    await world.waited(LIMITS.provision_s + 1)
    await world.work()
    failing = await world.job(job)
    assert "No space left on device" in failing.error
    assert f"{LIMITS.provision_s:g} s" in failing.error
    world.cloud.fails = None
    await world.work(2)
    assert (await world.job(job)).status == "failed"
    assert await world.event_kinds() == ["launch_failed"]


async def test_a_provider_that_asks_to_try_again_for_ever_does_not_keep_a_launch_for_ever(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.REQUESTED)
    world.cloud.fails = ProviderError("Come back later.", temporary=True)
    await world.work(3)
    assert (await world.job(job)).error == ""
    await world.waited(LIMITS.provision_s + 1)
    await world.work()
    assert "Come back later." in (await world.job(job)).error


async def test_a_launch_that_its_provider_forgot_is_asked_for_again_under_its_name_and_its_time_goes_on(
    world: World,
) -> None:
    job = await world.launched()
    await world.at(job, Step.PROVISIONING)
    began = (await world.job(job)).step_at
    world.cloud.there.clear()
    await world.work()
    found = await world.job(job)
    assert world.cloud.launched == [job.instance.id] * 2
    assert (found.step, found.step_at, found.error, found.asked_again) == (Step.PROVISIONING, began, "", 1)
    assert "it is asked for again" in found.steps[-1].detail
    assert "it is asked for again" in found.logs[-1].text
    world.registry.say(job.instance.id, "active")
    await world.work(3)
    assert (await world.job(job)).status == "succeeded"
    assert len(world.cloud.launched) == 2


async def test_a_machine_that_its_provider_left_half_made_is_gone_on_with_or_deleted(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.PROVISIONING)
    world.cloud.there[job.instance.id] = Machine(job.instance.id, "stalled", "half made")
    await world.work()
    assert len(world.cloud.launched) == 2
    world.cloud.there[job.instance.id] = Machine(job.instance.id, "stalled", "half made")
    await world.waited(LIMITS.provision_s + 1)
    await world.work(4)
    assert (await world.job(job)).status == "failed"
    assert world.cloud.there == {}


async def test_a_provider_that_forgets_each_time_is_asked_a_few_times_and_not_in_a_loop(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.PROVISIONING)
    for _ in range(MOST_ASKED_AGAIN + 2):
        for _ in range(3):
            world.cloud.there.clear()
            await world.work()
        await world.do("UPDATE jobs SET asked_again_at = asked_again_at - make_interval(hours => 1)")
    failed = await world.job(job)
    assert "forgot the launch 7 times" in failed.error
    assert failed.status == "failed"
    assert len(world.cloud.launched) == 1 + MOST_ASKED_AGAIN
    assert world.cloud.there == {}


async def test_a_provider_that_cannot_be_asked_again_now_fails_its_launch_with_its_own_words(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.PROVISIONING)
    world.cloud.there.clear()
    world.cloud.fails = ProviderError("Come back later.", temporary=True)
    await world.work(MOST_ASKED_AGAIN + 2)
    found = await world.job(job)
    assert (found.error, found.asked_again) == ("", 0), "it was not asked: nothing was forgotten"
    world.cloud.fails = ProviderError("No such machine type.", temporary=False)
    await world.work()
    assert (await world.job(job)).error == "No such machine type."


async def test_a_launch_called_off_after_its_provider_forgot_it_is_not_asked_for_again(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.PROVISIONING)
    world.cloud.there.clear()
    await world.store.add_terminate(
        end_job((await world.job(job)).instance, ids=world.ids, now=datetime.now(UTC), drain_timeout_s=30)
    )
    await world.work(6)
    assert len(world.cloud.launched) == 1
    assert world.cloud.there == {}


async def test_whoever_was_thought_dead_while_it_asked_again_counts_for_nothing_and_nobody_asks_twice(
    world: World,
) -> None:
    job = await world.launched()
    await world.at(job, Step.PROVISIONING)
    world.cloud.there.clear()
    world.cloud.meanwhile = lambda: world.do("UPDATE jobs SET lease_epoch = lease_epoch + 1, lease_until = '-infinity'")
    await world.work(3)
    found = await world.job(job)
    assert (found.step, found.asked_again) == (Step.PROVISIONING, 0)
    assert len(world.cloud.launched) == 2


async def test_a_provider_that_hangs_holds_up_its_own_jobs_and_no_others(world: World) -> None:
    world.cloud.hangs = True
    for _ in range(3 * LANE):
        await world.launched()
    working = asyncio.create_task(world.worker.run(wake=asyncio.Event()))
    try:
        async with asyncio.timeout(20):
            while world.cloud.hung < LANE:
                await asyncio.sleep(0.01)
            launched = await world.launched("other")
            while launched.instance.id not in world.other.launched:
                await asyncio.sleep(0.01)
        assert world.cloud.hung == LANE
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_a_provider_that_hangs_keeps_no_other_from_being_swept(world: World) -> None:
    world.cloud.hangs = True
    for cloud in (world.cloud, world.other):
        cloud.there["stray"] = Machine("stray", "running")
    sweeper = Sweeper(
        store=world.store,
        providers={"cloud": world.cloud, "other": world.other},
        clock=Clock(),
        metrics=OrchestratorMetrics(Metrics()),
        interval_s=0.01,
    )
    sweeping = asyncio.create_task(sweeper.run())
    try:
        async with asyncio.timeout(20):
            while world.other.there or not world.cloud.hung:
                await asyncio.sleep(0.01)
        assert (world.other.deleted, list(world.cloud.there)) == (["stray"], ["stray"])
    finally:
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)


async def test_a_launch_that_failed_before_its_machine_was_seen_is_deleted_all_the_same(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.REQUESTED)
    world.cloud.fails = ProviderError("No.", temporary=False)
    await world.work()
    world.cloud.fails = None
    await world.work()
    assert (await world.job(job)).status == "failed"
    assert world.cloud.deleted == [job.instance.id], "whoever is slower could still make it"


@pytest.mark.parametrize(
    ("code", "gives_up"), [(ErrorCode.UNAVAILABLE, False), (ErrorCode.TIMEOUT, False), (ErrorCode.NOT_FOUND, True)]
)
async def test_a_registry_that_is_away_is_waited_for_and_one_that_refuses_is_not(
    world: World, code: ErrorCode, gives_up: bool
) -> None:
    job = await world.launched()
    await world.at(job, Step.REQUESTED)
    world.registry.fails = CodedError(code, "There is no such version.")
    await world.work()
    found = await world.job(job)
    assert "The registry says: There is no such version." in (found.error if gives_up else found.steps[-1].detail)
    assert bool(found.error) == gives_up
    await world.do("UPDATE jobs SET wake_at = '-infinity'")
    assert await world.store.claim(lease_s=30) is not None, "it is held although nobody works on it"


async def test_a_registry_that_is_not_heard_of_keeps_no_machine_alive_that_was_to_end(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.PROVISIONING)
    await world.store.add_terminate(
        end_job((await world.job(job)).instance, ids=world.ids, now=datetime.now(UTC), drain_timeout_s=30)
    )
    world.registry.nodes = None
    await world.work(3)
    assert world.cloud.there, "what runs on it had no time"
    await world.waited(31)
    await world.work(6)
    assert world.cloud.there == {}


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1)])
async def test_a_replica_whose_clock_is_an_hour_off_takes_no_job_and_holds_none_up(
    world: World, off: timedelta
) -> None:
    held, waits = await world.launched(), await world.launched()
    holder = await world.store.claim(lease_s=30)
    assert holder is not None
    assert holder.id == held.id
    wrong = world.replica(off)
    for _ in range(4):
        await wrong.work_once()
    assert await world.store.renew(holder, lease_s=30), "it was taken from whoever works on it"
    # What the wrong clock touched is taken up by others at once, and no step has lasted an hour.
    await world.at(waits, Step.PROVISIONING)
    assert (await world.job(waits)).error == ""


async def test_a_launch_called_off_while_it_fails_keeps_its_reason_and_its_watchers_are_told(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.REQUESTED)
    world.cloud.fails = ProviderError("The quota of L4 is used up.", temporary=False)
    await world.work()
    told: set[str | None] = set()

    async def listen() -> None:
        async for job_id in world.store.changes():
            told.add(job_id)

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(20):
        while not told:
            await asyncio.sleep(0.01)
        await world.service.terminate(job.instance.id, drain_timeout_s=0)
        while job.id not in told:
            await asyncio.sleep(0.01)
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening
    found = await world.job(job)
    assert (found.status, found.error) == ("failed", "The quota of L4 is used up.")
    assert all(step.ended_at for step in found.steps), "a step of what has ended looks as if it went on"


async def test_words_with_what_no_database_keeps_are_kept_without_it(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.REQUESTED)
    world.cloud.fails = ProviderError("no\0 \x1b[31mroom\ud800" + "x" * 10_000, temporary=False)
    await world.work()
    error = (await world.job(job)).error
    assert error.startswith("no [31mroomxxx")
    assert len(error) <= 2_000


async def test_a_retry_finds_its_machine_whatever_became_of_the_model(world: World) -> None:
    request_id, org_id = world.ids.next_text(), world.ids.next_text()
    asked = replace(SPEC, org_id=org_id)
    first = await world.service.launch(asked, request_id=request_id)
    world.registry.models.clear()
    world.registry.fails = CodedError(ErrorCode.UNAVAILABLE)
    capitals = replace(asked, org_id=org_id.upper())
    again = await world.service.launch(capitals, request_id=request_id.upper())
    assert again.id == first.id
    with pytest.raises(CodedError) as caught:
        await world.service.launch(replace(asked, region="elsewhere"), request_id=request_id)
    assert caught.value.code is ErrorCode.CONFLICT


async def test_many_at_once_with_one_request_id_launch_one_machine(world: World) -> None:
    request_id = world.ids.next_text()
    jobs = await asyncio.gather(*(world.service.launch(SPEC, request_id=request_id) for _ in range(20)))
    assert len({job.id for job in jobs}) == 1
    assert len(await world.store.instances(after="", limit=100, include_ended=True)) == 1


@pytest.mark.parametrize("name", ["model_name", "region", "instance_type"])
async def test_what_no_database_keeps_is_refused_by_name(world: World, name: str) -> None:
    spec = {
        "model_name": replace(SPEC, model="m\0"),
        "region": replace(SPEC, region="r\0"),
        "instance_type": replace(SPEC, instance_type="L4\0"),
    }[name]
    with pytest.raises(CodedError) as caught:
        await world.service.launch(spec, request_id="")
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_ARGUMENT, name)


async def test_one_machine_that_cannot_be_deleted_or_found_keeps_no_other_from_being_swept(world: World) -> None:
    lost = await world.launched()
    await world.do("UPDATE instances SET state = 'active'")
    await world.do("UPDATE jobs SET status = 'succeeded'")
    world.cloud.there = {"stray": Machine("stray", "running")}
    world.cloud.hangs = True
    sweeper = Sweeper(
        store=world.store,
        providers={"cloud": world.cloud},
        clock=Clock(),
        metrics=OrchestratorMetrics(Metrics()),
        interval_s=30,
        call_s=0.05,
    )
    async with asyncio.timeout(20):
        await sweeper.sweep("cloud", world.cloud)
    instance = await world.store.instance(lost.instance.id)
    assert isinstance(instance, Instance)
    assert instance.state == "lost"
    assert world.cloud.deleted == ["stray"]


async def test_a_launchs_log_says_what_the_provider_the_agent_and_the_engine_said(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.PROVISIONING)
    name, machine = job.instance.id, Machine(job.instance.id, "pending", "the cloud looks for an L4")
    world.cloud.there[name] = machine
    await world.work(2)
    world.cloud.there[name] = replace(machine, state="running", detail="")
    world.registry.say(name, "warming", "the engine is starting")
    world.registry.logs[name] = [("agent", "joined"), ("engine", "CUDA out of memory: tried to allocate 20 GiB")]
    await world.work(2)
    logs = [LaunchLogs(store=JobLogStore(world.pool, channel="x"), fleet=world.registry, clock=Clock()) for _ in "ab"]
    await asyncio.gather(*(each.look_once() for each in logs))
    await logs[0].look_once()
    world.registry.say(name, "dead", "the engine ended with 1")
    await world.work(4)
    found = await world.job(job)
    assert found.status == "failed"
    assert [(line.source, line.text) for line in found.logs] == [
        ("orchestrator", "the cloud looks for an L4"),
        ("orchestrator", "the engine is starting"),
        ("agent", "joined"),
        ("engine", "CUDA out of memory: tried to allocate 20 GiB"),
        (
            "orchestrator",
            "The node died before it served, and has not come back within 300 s: the engine ended with 1.",
        ),
        ("orchestrator", "The provider is told to delete it."),
    ]


async def test_what_was_loaded_is_told_of_the_loading_however_fast_the_steps_after_it_were(world: World) -> None:
    job = await world.launched()
    await world.at(job, Step.PROVISIONING)
    name = job.instance.id
    world.cloud.there[name] = Machine(name, "running")
    world.registry.say(name, "warming", "the engine is starting", loaded=(5, 12))
    await world.work(3)
    world.registry.fails = CodedError(ErrorCode.UNAVAILABLE)
    await world.work(2)
    world.registry.fails = None
    told = {row.step: (row.bytes_done, row.bytes_total) for row in (await world.job(job)).steps}
    assert told[Step.WEIGHTS_LOADING] == (5, 12)
    world.registry.say(name, "active", loaded=(12, 12))
    await world.work(3)
    found = await world.job(job)
    assert found.status == "succeeded"
    told = {row.step: (row.bytes_done, row.bytes_total) for row in found.steps}
    assert {step for step, row in told.items() if row != (0, 0)} == {Step.WEIGHTS_LOADING}
    assert told[Step.WEIGHTS_LOADING] == (12, 12)


async def test_a_machine_that_logs_without_end_fills_no_database_and_a_registry_without_logs_holds_nothing_up(
    world: World,
) -> None:
    job = await world.launched()
    await world.at(job, Step.PROVISIONING)
    removed, name = (await world.launched()).instance.id, job.instance.id
    for each in (removed, name):
        world.registry.say(each, "warming")
    world.registry.gone.add(removed)
    await world.do(
        "UPDATE jobs SET step = %s, created_at = now() - interval '1 hour' WHERE instance_id = %s", 4, removed
    )
    logs = LaunchLogs(store=JobLogStore(world.pool, channel="x"), fleet=world.registry, clock=Clock())
    for count in (70, 150, 1_000):
        world.registry.logs[name] = [("engine", f"{number}\0" + "x" * 5_000) for number in range(count)]
        await logs.look_once()
    found = await world.job(job)
    assert len(found.logs) == KEPT_LINES
    assert found.logs[-1].text.startswith("999xxx")
    assert max(len(line.text) for line in found.logs) <= 500
    world.registry.fails = CodedError(ErrorCode.UNAVAILABLE)
    with pytest.raises(CodedError):
        await logs.look_once()
