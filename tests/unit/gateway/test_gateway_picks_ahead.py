"""Picks made ahead: they save a round trip while requests are few, and never send one to a node picked long ago."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from opentelemetry.sdk.trace import TracerProvider

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic_common.clock import SystemClock
from crosslogic_gateway import picker as picker_module
from crosslogic_gateway.affinity import NO_HINTS, PickHints
from crosslogic_gateway.picker import HANGS_S, READY_S, Picker
from crosslogic_gateway.request_traces import RequestTrace
from crosslogic_gateway.traced import TracedPicker


class CountingScheduler:
    """Answers every call with the next node: `node-1`, `node-2`, …"""

    def __init__(self) -> None:
        self.asked: list[pb.PickRequest] = []
        self.region_failover = False
        self.hangs = False
        self._answers: asyncio.Queue[pb.PickStreamResponse] = asyncio.Queue()

    async def wait_for_connection(self) -> None: ...

    async def write(self, request: bytes) -> None:
        results = []
        for call in pb.PickStreamRequest.FromString(request).calls:
            self.asked.append(call.request)
            response = pb.PickResponse(
                node_id=f"node-{len(self.asked)}",
                address="127.0.0.1:1",
                region="local",
                region_failover=self.region_failover,
            )
            if not self.hangs:
                results.append(pb.PickStreamResult(id=call.id, response=response))
        self._answers.put_nowait(pb.PickStreamResponse(results=results))

    async def read(self) -> pb.PickStreamResponse:
        return await self._answers.get()

    def cancel(self) -> bool:
        return True


class StoppedClock(SystemClock):
    at = 0.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def scheduler() -> CountingScheduler:
    return CountingScheduler()


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
async def picker(scheduler: CountingScheduler, clock: StoppedClock) -> AsyncIterator[Picker]:
    made = Picker(open_stream=lambda: scheduler, clock=clock)
    async with made.running():
        yield made


async def pick(
    picker: Picker, *, model: str = "m", org_id: str = "o", excluded: tuple[str, ...] = (), hints: PickHints = NO_HINTS
) -> str:
    route = await picker.pick(model=model, org_id=org_id, region="", estimated_tokens=7, excluded=excluded, hints=hints)
    return route.node_id


async def until_asked(scheduler: CountingScheduler, count: int) -> None:
    async with asyncio.timeout(5):
        while len(scheduler.asked) < count:
            await asyncio.sleep(0.001)
    # Its answer is read and kept.
    await asyncio.sleep(0.01)


async def test_place_in_use_has_its_next_pick_ready(picker: Picker, scheduler: CountingScheduler) -> None:
    assert [await pick(picker), await pick(picker)] == ["node-1", "node-2"]
    await until_asked(scheduler, 3)
    assert await pick(picker) == "node-3"
    assert len(scheduler.asked) == 3, "the pick that was ready was not used"
    await until_asked(scheduler, 4)
    assert {request.model for request in scheduler.asked} == {"m"}


async def test_single_request_costs_a_single_pick(picker: Picker, scheduler: CountingScheduler) -> None:
    await pick(picker)
    await asyncio.sleep(picker_module.REFILL_AFTER_S * 10)
    assert len(scheduler.asked) == 1


async def test_old_pick_is_not_used(picker: Picker, scheduler: CountingScheduler, clock: StoppedClock) -> None:
    await pick(picker)
    await pick(picker)
    await until_asked(scheduler, 3)
    clock.at = READY_S * 2
    assert await pick(picker) == "node-4"


async def test_pick_ahead_serves_nobody_else(picker: Picker, scheduler: CountingScheduler) -> None:
    await pick(picker)
    await pick(picker)
    await until_asked(scheduler, 3)
    assert await pick(picker, org_id="other") == "node-4"
    assert await pick(picker, model="other") == "node-5"


async def test_retry_never_takes_a_pick_made_ahead(picker: Picker, scheduler: CountingScheduler) -> None:
    await pick(picker)
    await pick(picker)
    await until_asked(scheduler, 3)
    assert await pick(picker, excluded=("node-3",)) == "node-4"
    assert list(scheduler.asked[-1].excluded_node_ids) == ["node-3"]


async def test_request_of_a_session_is_asked_for_itself(picker: Picker, scheduler: CountingScheduler) -> None:
    await pick(picker)
    await pick(picker)
    await until_asked(scheduler, 3)
    assert await pick(picker, hints=PickHints(session_key=9, client_key=9)) == "node-4"
    assert scheduler.asked[-1].session_key == scheduler.asked[-1].client_key == 9
    assert await pick(picker, hints=PickHints(prefix_hashes=(1, 2))) == "node-5"
    assert list(scheduler.asked[-1].prefix_hashes) == [1, 2]
    assert await pick(picker) == "node-3"


async def test_pick_made_for_any_region_does_not_serve_data_that_must_stay_in_its_own(
    picker: Picker, scheduler: CountingScheduler
) -> None:
    await pick(picker)
    await pick(picker)
    await until_asked(scheduler, 3)
    assert await pick(picker, hints=PickHints(allowed_regions=("",))) == "node-4"
    assert scheduler.asked[-1].residency_pinned
    assert not scheduler.asked[0].residency_pinned


async def test_pick_of_another_region_is_not_kept_for_other_clients(
    picker: Picker, scheduler: CountingScheduler
) -> None:
    scheduler.region_failover = True
    await pick(picker)
    await pick(picker)
    await until_asked(scheduler, 3)
    assert await pick(picker) == "node-4"


async def test_only_one_request_at_a_time_waits_for_a_scheduler_that_hangs(
    picker: Picker, scheduler: CountingScheduler, clock: StoppedClock
) -> None:
    assert await pick(picker) == "node-1"
    scheduler.hangs = True
    assert await pick(picker, excluded=("x",)) == "node-1"  # it waited, and went by memory
    asked = len(scheduler.asked)
    assert [await pick(picker, excluded=("x",)) for _ in range(50)] == ["node-1"] * 50
    assert len(scheduler.asked) == asked, "each of them waited for half a second"
    clock.at += HANGS_S
    waiting = asyncio.create_task(pick(picker, excluded=("x",)))
    await until_asked(scheduler, asked + 1)
    assert [await pick(picker, excluded=("x",)) for _ in range(50)] == ["node-1"] * 50
    assert len(scheduler.asked) == asked + 1
    assert await waiting == "node-1"
    scheduler.hangs = False
    clock.at += HANGS_S
    assert await pick(picker, excluded=("x",)) == f"node-{asked + 2}"
    assert await pick(picker, excluded=("x",)) == f"node-{asked + 3}"
    assert picker.picked_from_memory == 102


async def test_many_at_once_are_picked_in_shared_messages(picker: Picker, scheduler: CountingScheduler) -> None:
    picks = await asyncio.gather(*(pick(picker) for _ in range(100)))
    assert len(set(picks)) == 100
    await asyncio.sleep(picker_module.REFILL_AFTER_S * 10)
    assert len(scheduler.asked) <= 102


async def test_scheduler_learns_the_span_of_a_traced_pick_and_none_for_one_made_ahead(
    scheduler: CountingScheduler, clock: StoppedClock
) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    trace = RequestTrace(tracer, tracer.start_span("request"))
    picker = TracedPicker(open_stream=lambda: scheduler, clock=clock)
    async with picker.running():
        await pick(picker)
        with trace.current():
            await pick(picker)
            await until_asked(scheduler, 3)
    assert [request.traceparent[3:35] for request in scheduler.asked] == ["", trace.trace_id, ""]
