"""Decisions in the real database: fenced, all or nothing, never changed; and what machines' fates teach placement."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from crosslogic_common.clock import SystemClock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import Pool, transaction
from crosslogic_orchestrator.jobs import end_job
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.scaling.domain import Constraints, Deployment, End, History, Launch, Offer, Plan
from crosslogic_orchestrator.scaling.loop import Autoscaler
from crosslogic_orchestrator.scaling.records import Decided, Kept, World
from crosslogic_orchestrator.scaling.store import ScalingStore
from crosslogic_orchestrator.store import PostgresStore, insert_end

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OFFER = Offer(
    provider="local",
    region="r",
    instance_type="",
    spot=True,
    price_picodollars=5,
    expected_price_picodollars=6,
    why="cheapest",
)
ASKED = Deployment(
    id="",
    model="m",
    region="r",
    max_nodes=3,
    spot_share=0.5,
    constraints=Constraints(providers=("local", "aws"), gpu="L4"),
)


@pytest.fixture
def store(fleet_pool: Pool) -> ScalingStore:
    return ScalingStore(fleet_pool, ids=Uuid7Source())


@pytest.fixture
async def kept(store: ScalingStore) -> Kept:
    return await store.create(replace(ASKED, id=Uuid7Source().next_text()), now=NOW)


def decided(
    kept: Kept, *, launches: int = 0, ends: tuple[str, ...] = (), replaces: str = "", act: bool = True
) -> Decided:
    plan = Plan(
        desired=launches,
        kept=0,
        needs=(),
        launches=(Launch(OFFER, "because", replaces),) * launches,
        ends=tuple(End(each, "not needed") for each in ends),
    )
    return Decided(kept=kept, plan=plan, history=History(scaled_up_at=NOW), at=NOW, act=act)


async def test_what_was_asked_for_comes_back_as_it_was_and_a_place_has_one_deployment(
    store: ScalingStore, kept: Kept
) -> None:
    assert kept.deployment == replace(ASKED, id=kept.deployment.id)
    with pytest.raises(CodedError) as caught:
        await store.create(replace(ASKED, id=Uuid7Source().next_text()), now=NOW)
    assert caught.value.code is ErrorCode.ALREADY_EXISTS
    changed = await store.update(replace(kept.deployment, max_nodes=9), revision=1, now=NOW)
    assert (changed.deployment.max_nodes, changed.deployment.revision) == (9, 2)
    with pytest.raises(CodedError) as caught:
        await store.update(kept.deployment, revision=1, now=NOW)
    assert caught.value.code is ErrorCode.CONFLICT


async def test_whoever_lost_the_lease_or_decided_for_another_revision_launches_nothing(
    store: ScalingStore, kept: Kept
) -> None:
    first = await store.lead(epoch=0, lease_s=15)
    assert await store.lead(epoch=0, lease_s=15) == 0, "two decide at once"
    assert await store.lead(epoch=first, lease_s=0) == first
    second = await store.lead(epoch=0, lease_s=15)
    assert second > first
    assert not await store.carry_out(decided(kept, launches=1), epoch=first)
    await store.update(kept.deployment, revision=0, now=NOW)
    assert not await store.carry_out(decided(kept, launches=1), epoch=second)
    assert (await store.world(now=NOW)).machines == ()
    assert await store.decisions(kept.deployment.id, before=0, limit=10) == []


async def test_an_autoscaler_that_is_stopped_leaves_the_lead_to_the_next_at_once(
    store: ScalingStore, fleet_pool: Pool
) -> None:
    unused: Any = None  # There is no deployment to look at.
    leads = asyncio.Event()

    class Watched(ScalingStore):
        async def world(self, *, now: datetime) -> World:
            leads.set()
            return await store.world(now=now)

    scaler = Autoscaler(
        store=Watched(fleet_pool, ids=Uuid7Source()),
        signals=unused,
        sources=unused,
        prices=unused,
        clock=SystemClock(),
        metrics=OrchestratorMetrics(Metrics()),
        interval_s=60,
        wake=asyncio.Event(),
        work=asyncio.Event(),
    )
    running = asyncio.create_task(scaler.run())
    await asyncio.wait_for(leads.wait(), 20)
    assert await store.lead(epoch=0, lease_s=15) == 0, "it does not lead"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await store.lead(epoch=0, lease_s=15)


async def test_decision_its_machines_and_its_events_come_together_and_stay(
    store: ScalingStore, fleet_pool: Pool, kept: Kept
) -> None:
    epoch = await store.lead(epoch=0, lease_s=15)
    assert await store.carry_out(decided(kept, launches=2), epoch=epoch)
    world = await store.world(now=NOW)
    assert [machine.instance.hourly_price_picodollars for machine in world.machines] == [5, 5]
    one, other = (machine.instance.id for machine in world.machines)
    (row,) = await store.decisions(kept.deployment.id, before=0, limit=10)
    assert {launch["instance_id"] for launch in row.body["launches"]} == {one, other}

    assert await store.carry_out(decided(kept, launches=1, ends=(one,), replaces=other), epoch=epoch)
    assert await store.carry_out(decided(kept, ends=(one,)), epoch=epoch), "an end that is under way is no fault"
    events = await store.events(after=0, limit=10)
    assert [event.kind for event in events] == ["scale_up", "scale_up", "replacement_requested", "scale_down"]
    states = {machine.instance.id: machine.instance.state for machine in (await store.world(now=NOW)).machines}
    assert states[one] == "terminating"
    for table in ("decisions", "events"):
        with pytest.raises(psycopg.errors.RaiseException):
            async with transaction(fleet_pool) as connection:
                await connection.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize("deleted", [False, True])
async def test_machine_that_somebody_else_ends_at_the_same_moment_is_ended_once(
    store: ScalingStore, fleet_pool: Pool, kept: Kept, deleted: bool
) -> None:
    epoch = await store.lead(epoch=0, lease_s=15)
    assert await store.carry_out(decided(kept, launches=1), epoch=epoch)
    [machine] = (await store.world(now=NOW)).machines
    ids, instance = Uuid7Source(), machine.instance

    async def end_too() -> bool:
        if not deleted:
            return await store.carry_out(decided(kept, ends=(instance.id,)), epoch=epoch)
        await store.end(kept.deployment.id, now=NOW)
        return True

    async with transaction(fleet_pool) as connection:
        await insert_end(connection, end_job(instance, ids=ids, now=NOW, drain_timeout_s=1.0))
        ending = asyncio.create_task(end_too())
        async with asyncio.timeout(30):
            while not await _waits_for_a_lock(fleet_pool):
                await asyncio.sleep(0.01)
    assert await ending
    async with transaction(fleet_pool) as connection:
        cursor = await connection.execute("SELECT count(*) FROM jobs WHERE instance_id = %s", (instance.id,))
        assert await cursor.fetchone() == (2,)
    assert [event.kind for event in await store.events(after=0, limit=10)] == ["scale_up"]


async def _waits_for_a_lock(pool: Pool) -> bool:
    async with transaction(pool) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        row = await cursor.fetchone()
        return row is not None and row[0] > 0


async def test_dry_run_writes_down_and_launches_nothing(store: ScalingStore, kept: Kept) -> None:
    epoch = await store.lead(epoch=0, lease_s=15)
    assert await store.carry_out(decided(kept, launches=2, act=False), epoch=epoch)
    assert (await store.world(now=NOW)).machines == ()
    (row,) = await store.decisions(kept.deployment.id, before=0, limit=10)
    assert row.body["dry_run"]


async def test_failed_launches_and_lost_machines_are_remembered_by_place(
    store: ScalingStore, fleet_pool: Pool, pg_url: str, kept: Kept
) -> None:
    epoch = await store.lead(epoch=0, lease_s=15)
    assert await store.carry_out(decided(kept, launches=2), epoch=epoch)
    jobs = PostgresStore(fleet_pool, dsn=pg_url)
    failing, going = (
        await jobs.claim(lease_s=30),
        await jobs.claim(lease_s=30),
    )
    assert failing is not None
    assert going is not None
    assert await jobs.end(going, price_picodollars=0, now=NOW + timedelta(seconds=40))
    assert await jobs.lose(going.instance.id, now=NOW + timedelta(hours=1))
    assert await jobs.give_up(failing, "no room", now=NOW + timedelta(seconds=50))
    again = await jobs.claim(lease_s=30)
    assert again is not None
    assert await jobs.end(again, price_picodollars=0, now=NOW + timedelta(seconds=60))

    world = await store.world(now=NOW + timedelta(minutes=5))
    attempts = world.attempts[kept.deployment.id]
    assert (attempts.failed_in_a_row, attempts.start_s) == (1, 40)
    assert attempts.failing_places == {"local/r/any"}
    assert world.lived["local/r/any"].taken == 1
    assert [event.kind for event in await store.events(after=2, limit=10)] == ["node_lost", "launch_failed"]


async def test_requests_that_wait_are_forgotten_when_nobody_repeats_them(store: ScalingStore, kept: Kept) -> None:
    held = await store.hold(model="m", region="", reporter="w", waiting=3, now=NOW, until=NOW + timedelta(seconds=5))
    assert held is not None
    assert (await store.world(now=NOW)).waiting == {kept.deployment.id: 3}
    assert (await store.world(now=NOW + timedelta(seconds=6))).waiting == {}
    assert await store.hold(model="x", region="", reporter="w", waiting=1, now=NOW, until=NOW) is None


async def test_requests_that_a_clock_an_hour_ahead_noted_keep_no_machine_awake(store: ScalingStore, kept: Kept) -> None:
    ahead = NOW + timedelta(hours=1)
    assert await store.hold(model="m", region="", reporter="w", waiting=3, now=ahead, until=ahead) == kept
    assert (await store.world(now=NOW)).waiting == {}


async def test_request_for_any_region_wakes_a_deployment_that_may_launch_though_another_is_older(
    store: ScalingStore, kept: Kept
) -> None:
    await store.update(replace(kept.deployment, mode="paused"), revision=0, now=NOW)
    other = replace(ASKED, id=Uuid7Source().next_text(), region="elsewhere")
    awake = await store.create(other, now=NOW + timedelta(seconds=1))
    until = NOW + timedelta(seconds=5)
    for region, found in (("", awake), ("elsewhere", awake), ("nowhere", None)):
        assert await store.hold(model="m", region=region, reporter="w", waiting=1, now=NOW, until=until) == found


async def test_end_of_a_deployment_ends_its_machines(store: ScalingStore, kept: Kept) -> None:
    epoch = await store.lead(epoch=0, lease_s=15)
    assert await store.carry_out(decided(kept, launches=2), epoch=epoch)
    for _ in range(2):
        await store.end(kept.deployment.id, now=NOW)
    assert {machine.instance.state for machine in (await store.world(now=NOW)).machines} == {"terminating"}
    assert not await store.carry_out(decided(kept, launches=1), epoch=epoch)
    assert await store.deployments() == []
