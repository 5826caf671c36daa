"""Requests that go to a node while Redis is still asked: only where there is room, and never beyond what is let in."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import redis

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_common.errors import ErrorCode
from crosslogic_gateway.admission.held_ticket import HeldTicket
from crosslogic_gateway.admission.refusals import RefusedError, overloaded
from crosslogic_gateway.admission.wiring import RunningAdmission
from crosslogic_gateway.domain import HardBudget, Limits, Principal
from tests.fakes.admission_script import principal
from tests.fakes.admission_world import FakeLedger, admit, workers
from tests.fakes.gateway_fleet import Fleet, fleet


async def early(worker: RunningAdmission, who: Principal, request_id: str, *, max_tokens: int = 20) -> HeldTicket:
    """A ticket that is asked for while nobody else asks Redis."""
    async with asyncio.timeout(30):
        while not worker.pipe.idle:
            await asyncio.sleep(0.001)
    return await admit(worker, who, request_id, max_tokens=max_tokens, early=True)


def _goes_early(ticket: HeldTicket) -> bool:
    return ticket.undecided is not None


async def test_a_request_goes_on_early_where_most_of_every_limit_is_free(redis_url: str) -> None:
    who = principal(key=Limits(requests_per_minute=10), org=Limits(tokens_per_minute=10_000, concurrency=9))
    async with workers(redis_url, 1) as (worker,):
        assert not _goes_early(await early(worker, who, "unknown")), "nothing is known of it yet"
        ticket = await early(worker, who, "known")
        assert _goes_early(ticket)
        await worker.admission.decide(ticket)
        assert not _goes_early(ticket)
        assert "x-ratelimit-remaining-requests: 8" in ticket.headers
        large = await early(worker, who, "large", max_tokens=6_000)
        assert large.undecided is None, "it would take more than half of the tokens"
        for number in range(2):
            await worker.admission.decide(await early(worker, who, f"s{number}"))
        assert not _goes_early(await early(worker, who, "sixth")), "half of the requests are used"


async def test_one_goes_on_early_at_a_time_so_that_a_burst_is_never_wrong_twice(redis_url: str) -> None:
    who = principal(key=Limits(requests_per_minute=1_000))
    async with workers(redis_url, 1) as (worker,):
        await admit(worker, who, "first")
        ahead = await early(worker, who, "ahead")
        others = await asyncio.gather(*(admit(worker, who, f"r{number}", early=True) for number in range(5)))
        assert (_goes_early(ahead), [_goes_early(ticket) for ticket in others]) == (True, [False] * 5)
        await worker.admission.decide(ahead)
        assert "remaining-requests: 998" in ahead.headers


async def test_a_refusal_that_was_not_foreseen_holds_nothing_and_is_the_last_of_its_kind(
    redis_url: str,
) -> None:
    who = principal(key=Limits(requests_per_minute=1_000, concurrency=4))
    async with workers(redis_url, 2) as (one, other):
        (await admit(one, who, "first")).release()
        theirs = [await admit(other, who, f"theirs {number}") for number in range(4)]
        mine = await early(one, who, "mine")
        assert _goes_early(mine), "what the other worker let in is not known here"
        with pytest.raises(RefusedError, match="4 under way"):
            await one.admission.decide(mine)
        mine.release()
        with pytest.raises(RefusedError):
            await admit(one, who, "again", early=True)
        for ticket in theirs:
            ticket.release()
        await other.pipe.flushed(5)
        assert not _goes_early(await early(one, who, "room again"))
        later = await early(one, who, "later")
        assert _goes_early(later)
        later.release()


async def test_what_ends_before_redis_answered_gives_back_what_redis_let_in(redis_url: str) -> None:
    who = principal(org=Limits(tokens_per_minute=100_000, concurrency=10))
    async with workers(redis_url, 1) as (worker,):
        first = await admit(worker, who, "first")
        for name in ("left at once", "left later"):
            left = await early(worker, who, name)
            assert _goes_early(left)
            if name == "left later":
                await worker.pipe.flushed(5)
            left.release()
            await worker.pipe.flushed(5)
        deciding = await early(worker, who, "client left")
        task = asyncio.create_task(worker.admission.decide(deciding))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        deciding.release()
        first.release()
        await worker.pipe.flushed(5)
        with redis.Redis.from_url(redis_url) as client:
            assert client.get("concurrency:{org-1}:org:org-1") in (None, b"0")
            assert not list(client.scan_iter("tickets:*"))


async def test_a_budget_that_is_half_spent_lets_nobody_go_on_early(redis_url: str) -> None:
    budget = HardBudget("org:org-1:month", "org", "month", 10**9)
    month = time.strftime("%Y-%m", time.gmtime())
    ledger = FakeLedger(spent_picodollars={budget.id: 4 * 10**8}, month=month)
    async with workers(redis_url, 1, ledger=ledger) as (worker,):
        who = principal(budgets=(budget,))
        await admit(worker, who, "first", max_tokens=100)
        assert _goes_early(await early(worker, who, "cheap", max_tokens=100))
        await worker.pipe.flushed(5)
        assert not _goes_early(await early(worker, who, "dear", max_tokens=2_000))


async def _refuse() -> None:
    raise overloaded(1.0)


def _after(event: asyncio.Event, then: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def decide() -> None:
        await event.wait()
        await then()

    return decide


async def _let_in() -> None:
    """It is."""


async def _superseded(world: Fleet) -> None:
    async with asyncio.timeout(5):
        while not world.nodes[0].told:
            await asyncio.sleep(0.005)
    assert [frame.supersede for frame in world.nodes[0].told] == [True]
    record = await world.record()
    assert (record.outcome, record.usage.completion_tokens) == (common_pb.OUTCOME_FAILED, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_client_is_told_nothing_before_its_request_is_let_in(stream: bool) -> None:
    async with fleet(nodes=1) as world:
        said = asyncio.Event()
        world.decide = _after(said, _let_in)
        asked = asyncio.create_task(world.post(stream=stream))
        call_id, _ = await world.nodes[0].call()
        if stream:
            world.nodes[0].begin(call_id, b"data", tokens=1)
            world.nodes[0].end(call_id, tokens=1)
        else:
            world.nodes[0].answer(call_id, 200, b"data")
        done, _ = await asyncio.wait([asked], timeout=0.05)
        assert not done
        said.set()
        async with await asked as answer:
            assert (answer.status, await answer.read()) == (200, b"data")
        assert (await world.record()).usage.completion_tokens == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_reaches_the_client_and_the_node_stops_and_bills_nothing(stream: bool) -> None:
    async with fleet(nodes=2) as world:
        said = asyncio.Event()
        world.decide = _after(said, _refuse)
        asked = asyncio.create_task(world.post(stream=stream))
        call_id, _ = await world.nodes[0].call()
        world.nodes[0].begin(call_id, b"data: secret")
        said.set()
        async with await asked as answer:
            assert answer.status == 429
            assert b"secret" not in await answer.read()
        await _superseded(world)
        assert world.nodes[1].opened == [], "a refusal is no failure of the node"
        assert world.picks.reports.bad == []


async def test_a_client_that_leaves_before_its_request_is_let_in_is_not_billed() -> None:
    async with fleet(nodes=1) as world:
        world.decide = _after(asyncio.Event(), _let_in)
        asked = asyncio.create_task(world.post(stream=True))
        await world.nodes[0].call()
        asked.cancel()
        await asyncio.wait([asked])
        await _superseded(world)


async def test_who_finds_no_node_is_told_of_a_refusal_first() -> None:
    async with fleet(nodes=0) as world:
        world.decide = _refuse
        async with await world.post(stream=False) as answer:
            assert (answer.status, answer.headers["x-should-retry"]) == (429, "true")
        world.decide = _let_in
        async with await world.post(stream=False) as answer:
            assert answer.status == 503


async def test_a_request_that_was_let_in_goes_on_to_another_node_as_any_other() -> None:
    async with fleet(nodes=2) as world:
        world.decide = _let_in
        asked = asyncio.create_task(world.post(stream=False))
        call_id, _ = await world.nodes[0].call()
        world.nodes[0].fail(call_id, ErrorCode.ENGINE_UNAVAILABLE)
        call_id, _ = await world.nodes[1].call()
        world.nodes[1].answer(call_id, 200, b"data")
        async with await asked as answer:
            assert await answer.read() == b"data"
