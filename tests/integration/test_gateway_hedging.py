"""A first token that takes unusually long is asked of a second node; only one of the two is heard and billed."""

import asyncio

import pytest

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_common.errors import ErrorCode
from crosslogic_gateway.failover import FailoverPolicy
from crosslogic_gateway.hedging import LEAST_DELAY_S, LEAST_SAMPLES, MAX_MODELS, Hedging
from tests.fakes.gateway_fleet import Fleet, fleet

ALL = frozenset({"*"})


def _warm(world: Fleet, first_byte_s: float = 0.01) -> None:
    for _ in range(LEAST_SAMPLES + 16):
        world.attempts.counts.hedging.note("m", first_byte_s)


async def _read(world: Fleet) -> bytes:
    async with await world.post(stream=True) as answer:
        return await answer.read()


@pytest.mark.parametrize("winner", [0, 1])
async def test_the_first_of_two_nodes_is_heard_and_the_other_stops_and_bills_nothing(winner: int) -> None:
    async with fleet(hedged_models=ALL) as world:
        _warm(world)
        asked = asyncio.create_task(_read(world))
        calls = [(await node.call())[0] for node in world.nodes[:2]]
        won, lost = world.nodes[winner], world.nodes[1 - winner]
        won.begin(calls[winner], b"won ", tokens=1)
        async with asyncio.timeout(5):
            while not lost.told:
                await asyncio.sleep(0.005)
        assert [(frame.call_id, frame.supersede) for frame in lost.told] == [(calls[1 - winner], True)]
        lost.begin(calls[1 - winner], b"LOST", tokens=9)
        lost.end(calls[1 - winner], tokens=9)
        won.end(calls[winner], tokens=2, data=b"end")
        assert await asked == b"won end"
        record = await world.record()
        assert (record.attempts, record.failed_over, record.resumed) == (2, winner == 1, False)
        assert record.context.node_id == won.route.node_id
        assert record.usage.completion_tokens == 2
        assert world.nodes[2].opened == []


async def test_quick_first_tokens_and_models_that_are_not_hedged_cost_one_node() -> None:
    async with fleet(hedged_models=ALL) as world:
        _warm(world, 5.0)
        asked = asyncio.create_task(_read(world))
        call_id, _ = await world.nodes[0].call()
        world.nodes[0].begin(call_id, b"a", tokens=1)
        world.nodes[0].end(call_id, tokens=1)
        assert await asked == b"a"
        assert world.nodes[1].opened == []
        assert (await world.record()).attempts == 0
    assert not Hedging(frozenset({"other"})).wanted("m")


async def test_both_fail_and_the_third_answers() -> None:
    async with fleet(hedged_models=ALL) as world:
        _warm(world)
        asked = asyncio.create_task(_read(world))
        for node in world.nodes[:2]:
            await node.call()
        for node in world.nodes[:2]:
            node.fail(node.opened[0][0], ErrorCode.ENGINE_UNAVAILABLE)
        call_id, _ = await world.nodes[2].call()
        world.nodes[2].begin(call_id, b"third", tokens=1)
        world.nodes[2].end(call_id, tokens=1)
        assert await asked == b"third"
        assert sorted(world.picks.reports.bad) == ["node-1", "node-2"]
        assert (await world.record()).attempts == 3


async def test_a_client_that_leaves_both_is_billed_by_the_first() -> None:
    async with fleet(hedged_models=ALL) as world:
        _warm(world)
        asked = asyncio.create_task(world.post(stream=True))
        calls = [(await node.call())[0] for node in world.nodes[:2]]
        asked.cancel()
        first, second = world.nodes[:2]
        async with asyncio.timeout(5):
            while not (first.told and second.told):
                await asyncio.sleep(0.005)
        assert first.told[0].cancel
        assert second.told[0].supersede
        first.say(calls[0], end={"outcome": common_pb.OUTCOME_CLIENT_DISCONNECTED, "usage": {"source": 3}})
        record = await world.record()
        assert record.outcome == common_pb.OUTCOME_CLIENT_DISCONNECTED
        assert record.context.node_id == "node-1"


async def test_hedges_come_out_of_the_retry_budget() -> None:
    async with fleet(hedged_models=ALL, policy=FailoverPolicy(budget_share=0, budget_least=0)) as world:
        _warm(world)
        asked = asyncio.create_task(_read(world))
        call_id, _ = await world.nodes[0].call()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(world.nodes[1].call(), 0.2)
        world.nodes[0].begin(call_id, b"a", tokens=1)
        world.nodes[0].end(call_id, tokens=1)
        assert await asked == b"a"


def test_the_delay_is_the_95th_percentile_of_recent_first_tokens_and_memory_is_bounded() -> None:
    hedging = Hedging(ALL)
    assert hedging.delay_s("m") is None
    for number in range(200):
        hedging.note("m", number / 100)
    assert hedging.delay_s("m") == pytest.approx(1.9, abs=0.2)
    for _ in range(300):
        hedging.note("m", 0.001)
    assert hedging.delay_s("m") == LEAST_DELAY_S
    for number in range(MAX_MODELS + 50):
        hedging.note(f"model {number}", 1.0)
    assert len(hedging._times) == MAX_MODELS
