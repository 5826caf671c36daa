"""The gate of a worker: requests wait, have their turn, leave, and nothing is counted that is not there."""

import asyncio

import pytest

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.shedding.domain import Rank
from crosslogic_gateway.shedding.gate import IDLE_S, Asked, Gate, LaneKey, Pass
from crosslogic_gateway.shedding.lag import LOOKS, LoopLag

KEY = LaneKey("m", "us-east")


class World:
    def __init__(self, limit: int | None = None) -> None:
        self.at = 100.0
        self.lag = LoopLag(shed_from_s=0.5)
        self.changes = 0
        self.gate = Gate(lag=self.lag, now=lambda: self.at, changed=self._changed)
        if limit is not None:
            passed = self.go("first")
            self.at += 0.05
            self.gate.leave(passed)
            self.gate.limit(KEY, limit, frozenset())

    def _changed(self) -> None:
        self.changes += 1

    def go(self, org: str = "a", *, rank: Rank = Rank.NORMAL, reserved_units: int = 0) -> Pass:
        passed = self.gate.try_enter(asked(org, rank=rank, reserved_units=reserved_units))
        assert passed is not None
        return passed

    def wait(self, org: str = "a", rank: Rank = Rank.NORMAL, timeout_s: float = 60.0) -> "asyncio.Task[Pass]":
        wish = asked(org, rank=rank, timeout_s=timeout_s)
        assert self.gate.try_enter(wish) is None
        return asyncio.create_task(self.gate.enter(wish))

    @property
    def in_flight(self) -> int:
        lane = self.gate.lane(KEY)
        assert lane is not None
        return lane.queue.in_flight


def asked(org: str, *, rank: Rank = Rank.NORMAL, timeout_s: float = 60.0, reserved_units: int = 0) -> Asked:
    return Asked("m", "us-east", org, rank, 100.0, timeout_s, reserved_units)


async def turn(*tasks: "asyncio.Task[Pass]") -> list[bool]:
    """Lets the loop run; says who has had their turn."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def code_of(task: "asyncio.Task[Pass]") -> ErrorCode:
    with pytest.raises(CodedError) as refusal:
        async with asyncio.timeout(20):
            await task
    assert refusal.value.retry_after_s is not None
    assert refusal.value.retry_after_s >= 1.0
    return refusal.value.code


async def test_without_a_limit_everybody_goes_on_at_once() -> None:
    world = World()
    passes = [world.go() for _ in range(500)]
    assert world.in_flight == 500
    for each in passes:
        world.gate.leave(each)
    assert world.in_flight == 0


async def test_with_a_limit_the_rest_waits_and_each_end_lets_one_go_on() -> None:
    world = World(limit=2)
    running = [world.go(), world.go()]
    first, second = world.wait(), world.wait()
    assert await turn(first, second) == [False, False]
    world.at += 1.0
    world.gate.leave(running[0])
    assert await turn(first, second) == [True, False]
    world.gate.leave(running[1])
    world.gate.leave(await first)
    assert await turn(second) == [True]
    world.gate.leave(await second)
    assert (world.in_flight, world.gate.waiting) == (0, 0)


async def test_a_limit_that_rises_lets_more_go_on() -> None:
    world = World(limit=1)
    world.go()
    waiting = [world.wait() for _ in range(5)]
    await turn()
    world.gate.limit(KEY, 4, frozenset())
    assert (await turn(*waiting)).count(True) == 3
    world.gate.limit(KEY, None, frozenset())
    assert (await turn(*waiting)).count(True) == 5


async def test_reserved_requests_pass_whoever_waits_and_count_apart() -> None:
    world = World(limit=1)
    world.go()
    waiting = world.wait()
    await turn()
    passed = world.go("acme", reserved_units=500)
    lane = world.gate.lane(KEY)
    assert lane is not None
    assert (lane.reserved_in_flight, lane.queue.in_flight, lane.reservations["acme"][0]) == (1, 1, 500)
    world.gate.leave(passed)
    assert await turn(waiting) == [False], "its place is not for others"
    assert lane.reserved_in_flight == 0
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_client_that_leaves_the_queue_frees_its_place() -> None:
    world = World(limit=1)
    running = world.go()
    leaver, next_one = world.wait("a"), world.wait("b")
    await turn()
    leaver.cancel()
    await turn()
    world.gate.leave(running)
    assert await turn(leaver, next_one) == [True, True]
    world.gate.leave(await next_one)
    assert (world.in_flight, world.gate.waiting) == (0, 0)


async def test_a_client_that_leaves_in_the_moment_of_its_turn_takes_no_place_with_it() -> None:
    world = World(limit=1)
    running = world.go()
    leaver, next_one = world.wait("a"), world.wait("b")
    await turn()
    world.gate.leave(running)
    leaver.cancel()
    assert await turn(leaver, next_one) == [True, True]
    world.gate.leave(await next_one)
    assert (world.in_flight, world.gate.waiting) == (0, 0)


async def test_who_waited_in_vain_is_told_by_its_deadline() -> None:
    world = World(limit=1)
    world.go()
    waiting = world.wait(timeout_s=2.0)
    await turn()
    world.at += 1.9
    world.gate.look()
    assert await turn(waiting) == [False]
    world.at += 0.2
    world.gate.look()
    assert await code_of(waiting) is ErrorCode.OVERLOADED
    assert world.gate.refused[Rank.NORMAL] == 1


async def test_who_could_only_be_late_is_told_at_once() -> None:
    world = World(limit=1)
    running = world.go()
    world.at += 60.0
    world.gate.leave(running)
    world.go()
    assert await code_of(world.wait(timeout_s=2.0)) is ErrorCode.OVERLOADED


async def test_a_lasting_lag_of_the_event_loop_refuses_serverless_requests_and_no_reserved_ones() -> None:
    world = World()
    for _ in range(LOOKS):
        world.lag.look(1.2)
    with pytest.raises(CodedError) as refusal:
        world.gate.try_enter(asked("a"))
    assert refusal.value.code is ErrorCode.OVERLOADED
    world.go("a", rank=Rank.HIGH)
    world.go("acme", reserved_units=1)


async def test_an_organisation_with_nodes_of_its_own_has_a_lane_of_its_own() -> None:
    world = World(limit=1)
    world.gate.limit(KEY, 1, frozenset({"acme"}))
    world.go("a")
    world.go("acme")
    world.go("acme")
    own = world.gate.lane(LaneKey("m", "us-east", "acme"))
    assert own is not None
    assert (own.queue.in_flight, world.in_flight) == (2, 1)


async def test_lanes_that_nobody_uses_are_forgotten_and_those_in_use_are_not() -> None:
    world = World()
    gate = world.gate
    kept = gate.try_enter(Asked("kept", "", "a", Rank.NORMAL, 1.0, 1.0))
    for number in range(6_000):
        passed = gate.try_enter(Asked(f"m{number}", "", "a", Rank.NORMAL, 1.0, 1.0))
        assert passed is not None
        gate.leave(passed)
    assert len(list(gate.lanes)) <= 4_096
    assert kept is not None
    assert gate.lane(LaneKey("kept", "")) is kept.lane
    world.at += IDLE_S + 1
    gate.look()
    assert [lane.key.model for lane in gate.lanes] == ["kept"]
