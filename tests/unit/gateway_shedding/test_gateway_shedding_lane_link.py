"""What a worker tells the scheduler of its lanes, and when."""

import asyncio
from collections.abc import Callable

import grpc.aio

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic_gateway.shedding.domain import Rank
from crosslogic_gateway.shedding.gate import Asked, Gate, LaneKey
from crosslogic_gateway.shedding.lag import LoopLag
from crosslogic_gateway.shedding.lane_link import LaneLink


class Stream:
    """The scheduler's end: answers each message with one limit for every lane."""

    def __init__(self, told: list[pb.LaneStreamRequest], limit: int | None) -> None:
        self._told = told
        self._limit = limit
        self._answers: asyncio.Queue[pb.LaneStreamResponse] = asyncio.Queue()
        self._ended = asyncio.Event()

    async def wait_for_connection(self) -> None:
        """At once."""

    async def write(self, request: bytes) -> None:
        message = pb.LaneStreamRequest.FromString(request)
        self._told.append(message)
        answer = pb.LaneStreamResponse()
        for use in message.uses:
            share = answer.shares.add(model=use.model, region=use.region, org_id=use.org_id)
            if self._limit is not None:
                share.limit = self._limit
        await self._answers.put(answer)

    async def read(self) -> pb.LaneStreamResponse | object:
        if self._ended.is_set():
            return grpc.aio.EOF
        return await self._answers.get()

    def cancel(self) -> bool:
        self._ended.set()
        return True


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():
            await asyncio.sleep(0.002)


async def test_the_scheduler_hears_what_is_under_way_and_waits_and_its_limit_is_kept() -> None:
    told: list[pb.LaneStreamRequest] = []
    now = asyncio.get_running_loop().time
    gate = Gate(lag=LoopLag(shed_from_s=60.0), now=now)
    link = LaneLink(gate=gate, nodes=lambda: {"n1": 3}, open_stream=lambda: Stream(told, 2), now=now)
    wish = Asked("m", "us", "org", Rank.NORMAL, 10.0, 60.0)
    reserved = Asked("m", "us", "acme", Rank.NORMAL, 10.0, 60.0, 500)
    async with link.running():
        passes = [gate.try_enter(wish), gate.try_enter(wish), gate.try_enter(reserved)]
        assert None not in passes
        lane = gate.lane(LaneKey("m", "us"))
        assert lane is not None
        await until(lambda: lane.queue.limit == 2)
        assert gate.try_enter(wish) is None
        waiting = asyncio.create_task(gate.enter(wish))
        await until(lambda: bool(told) and told[-1].uses[0].waiting == 1)
        use = told[-1].uses[0]
        assert (use.model, use.region, use.in_flight, use.reserved_in_flight) == ("m", "us", 2, 1)
        assert [(each.org_id, each.capacity_units) for each in use.reservations] == [("acme", 500)]
        assert [(each.node_id, each.in_flight) for each in told[-1].nodes] == [("n1", 3)]
        first = passes[0]
        assert first is not None
        gate.leave(first)
        gate.leave(await waiting)
        await until(lambda: told[-1].uses[0].in_flight == 1)
        assert told[-1].uses[0].waiting == 0


async def test_a_scheduler_that_knows_no_limit_holds_nobody_up() -> None:
    told: list[pb.LaneStreamRequest] = []
    now = asyncio.get_running_loop().time
    gate = Gate(lag=LoopLag(shed_from_s=60.0), now=now)
    link = LaneLink(gate=gate, nodes=dict, open_stream=lambda: Stream(told, None), now=now)
    wish = Asked("m", "", "org", Rank.LOW, 10.0, 60.0)
    async with link.running():
        gate.try_enter(wish)
        await until(lambda: bool(told))
        assert all(gate.try_enter(wish) is not None for _ in range(100))
