"""What a client, a node and the ledger see when nodes fail in each of the ways in which they can."""

import asyncio

import pytest

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import ErrorCode
from crosslogic_gateway.failover import PROGRESS_TOKENS, FailoverPolicy, RetryBudget
from crosslogic_gateway.relay import Timeouts
from tests.fakes.gateway_fleet import OPENING, PROMPT_IDS, Fleet, Node, decoded, fleet

SHORT = Timeouts(first_byte_s=0.2, idle_s=0.2, stall_s=5.0, slack_s=0.0)


async def _picked(world: Fleet, times: int) -> None:
    async with asyncio.timeout(5):
        while len(world.picks.excluded) < times:
            await asyncio.sleep(0.002)


async def _answered(world: Fleet, *, stream: bool) -> tuple[int, bytes]:
    async with await world.post(stream=stream) as answer:
        return answer.status, await answer.read()


async def test_three_lost_nodes_end_a_request_and_no_node_is_asked_twice() -> None:
    async with fleet(5) as world:
        asked = asyncio.create_task(_answered(world, stream=False))
        for node in world.nodes[:3]:
            call_id, _ = await node.call()
            node.fail(call_id, ErrorCode.ENGINE_UNAVAILABLE)
        status, body = await asked
        assert status == 503
        assert decoded(body)["error"]["code"] == "engine_unavailable"
        assert world.picks.excluded == [(), ("node-1",), ("node-1", "node-2")]
        assert world.picks.reports.bad == ["node-1", "node-2", "node-3"]
        assert world.kept.records == []


async def test_nodes_that_are_known_to_be_out_of_reach_cost_no_attempt() -> None:
    async with fleet(5) as world:
        for node in world.nodes[:3]:
            node.up = False
        first = asyncio.create_task(_answered(world, stream=False))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(world.nodes[3].call(), 0.3)
        assert (await first)[0] == 503, "not known yet: each cost an attempt"
        second = asyncio.create_task(_answered(world, stream=False))
        call_id, _ = await world.nodes[3].call()
        world.nodes[3].answer(call_id, 200)
        assert (await second)[0] == 200
        assert (await world.record()).attempts == 0, "one"


async def test_the_only_node_is_asked_once_it_is_back() -> None:
    async with fleet(1) as world:
        (node,) = world.nodes
        node.up = False
        assert (await _answered(world, stream=False))[0] == 503
        asked = asyncio.create_task(_answered(world, stream=False))
        await _picked(world, 3)
        node.up = True
        call_id, _ = await node.call()
        node.answer(call_id, 200)
        assert (await asked)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_what_lost_its_node_waits_for_another_that_is_known_a_moment_later(*, stream: bool) -> None:
    async with fleet(2) as world:
        first, second = world.nodes
        world.picks.nodes.remove(second)
        asked = asyncio.create_task(_answered(world, stream=stream))
        call_id, _ = await first.call()
        first.fail(call_id, ErrorCode.ENGINE_UNAVAILABLE)
        await _picked(world, 3)
        world.picks.nodes.append(second)
        call_id, _ = await second.call()
        second.answer(call_id, 200)
        assert (await asked)[0] == 200
        assert (await world.record()).attempts == 2


async def test_what_lost_its_node_is_not_held_for_long_where_no_other_comes() -> None:
    async with fleet(1, policy=FailoverPolicy(another_within_s=0.6)) as world:
        asked = asyncio.create_task(_answered(world, stream=False))
        call_id, _ = await world.nodes[0].call()
        world.nodes[0].fail(call_id, ErrorCode.ENGINE_UNAVAILABLE)
        status, body = await asked
        assert (status, decoded(body)["error"]["code"]) == (503, "no_capacity")
        assert world.picks.excluded == [(), ("node-1",), ("node-1",), ("node-1",)]


async def test_a_whole_answer_that_breaks_begins_anew_and_is_billed_once() -> None:
    async with fleet() as world:
        asked = asyncio.create_task(_answered(world, stream=False))
        first, second, _ = world.nodes
        call_id, _ = await first.call()
        first.begin(call_id, b'{"half')
        first.die()
        call_id, opened = await second.call()
        assert not opened.HasField("resume")
        second.answer(call_id, 200, b'{"whole":1}', tokens=7)
        assert await asked == (200, b'{"whole":1}')
        record = await world.record()
        assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (2, 7)
        assert (record.attempts, record.failed_over, record.resumed) == (2, True, False)
        assert record.context.node_id == "node-2"


async def test_a_whole_answer_takes_as_long_as_its_node_says_that_it_goes_on_also_after_another_was_lost() -> None:
    timeouts = Timeouts(first_byte_s=1.0, idle_s=1.0, stall_s=5.0, slack_s=0.0, whole_s=77.0)
    async with fleet(timeouts=timeouts, policy=FailoverPolicy(window_s=0.5)) as world:
        asked = asyncio.create_task(_answered(world, stream=False))
        first, second, _ = world.nodes
        call_id, opened = await first.call()
        assert opened.whole_timeout_ms == 77_000
        first.fail(call_id, ErrorCode.ENGINE_UNAVAILABLE)
        call_id, _ = await second.call()
        for _ in range(7):
            await asyncio.sleep(0.2)
            second.say(call_id)
        second.answer(call_id, 200, b"{}")
        assert (await asked)[0] == 200


async def test_a_stream_goes_on_where_it_broke_and_what_the_first_node_says_later_is_not_heard() -> None:
    async with fleet(timeouts=SHORT) as world:
        first, second, _ = world.nodes
        answer = asyncio.create_task(world.post(stream=True))
        first_call, _ = await first.call()
        first.begin(first_call, b"one ", tokens=2)
        first.say(first_call, data=b"tw", ids=b"\7\0\0\0", completion_tokens=3, unsettled_tokens=1, unsettled_text="tw")
        # Silent for longer than the limit: another node goes on.
        call_id, opened = await second.call()
        resume = opened.resume
        assert (resume.stream_opening, resume.prompt_ids) == (OPENING, PROMPT_IDS)
        assert resume.token_ids == bytes(8) + b"\7\0\0\0"
        assert (resume.unsettled_tokens, resume.unsettled_text, resume.context_length) == (1, "tw", 4096)
        assert [frame.call_id for frame in first.told if frame.supersede] == [first_call]
        first.say(first_call, data=b"STALE", completion_tokens=99)
        first.end(first_call, tokens=99)
        second.say(call_id, head={"status": 200, "content_type": "text/event-stream"}, data=b"o three", ids=bytes(8))
        second.end(call_id, tokens=4, data=b" end")
        async with await answer as response:
            assert await response.read() == b"one two three end"
        record = await world.record()
        assert record.usage.completion_tokens == 4
        assert (record.attempts, record.resumed, record.outcome) == (2, True, common_pb.OUTCOME_SUCCEEDED)


async def test_a_second_death_before_the_first_new_byte_resumes_from_the_same_place() -> None:
    async with fleet() as world:
        first, second, third = world.nodes
        answer = asyncio.create_task(world.post(stream=True))
        call_id, _ = await first.call()
        first.begin(call_id, b"a", tokens=2, unsettled_tokens=1, unsettled_text="a")
        async with await answer as response:
            assert await response.content.readany() == b"a"
            first.die()
            _, opened = await second.call()
            second.die()
            call_id, again = await third.call()
            assert again.resume == opened.resume
            third.say(call_id, head={"status": 200}, data=b"b", completion_tokens=2, ids=bytes(4))
            third.end(call_id, tokens=3, data=b"c")
            assert await response.read() == b"bc"
        record = await world.record()
        assert (record.attempts, record.usage.completion_tokens) == (3, 3)


@pytest.mark.parametrize("why", ["no ids", "reasoning", "third death"])
async def test_a_stream_that_cannot_go_on_ends_with_an_error_and_costs_nothing(why: str) -> None:
    async with fleet(4) as world:
        answer = asyncio.create_task(world.post(stream=True))
        for node in world.nodes[: 3 if why == "third death" else 1]:
            call_id, _ = await node.call()
            if why == "no ids":
                node.say(call_id, head={"status": 200, "content_type": "text/event-stream"}, data=b"data: 1\n\n")
            else:
                node.begin(call_id, b"data: 1\n\n", tokens=1, cannot_resume=why == "reasoning")
            node.die()
        async with await answer as response:
            *events, last, rest = (await response.read()).split(b"\n\n")
        assert set(events) == {b"data: 1"}
        assert not rest
        error = decoded(last.removeprefix(b"data: "))["error"]
        assert error["code"] == "engine_unavailable"
        assert error["request_id"] == "request-1"
        assert world.nodes[3].opened == []
        assert (await world.record()).outcome == common_pb.OUTCOME_FAILED


async def test_a_client_that_leaves_while_another_node_is_looked_for_pays_for_what_it_was_sent() -> None:
    async with fleet() as world:
        first = world.nodes[0]
        answer = asyncio.create_task(world.post(stream=True))
        call_id, _ = await first.call()
        first.begin(call_id, b"a", tokens=5)
        response = await answer
        assert await response.content.readany() == b"a"
        never = asyncio.Event()
        world.picks.wait = never.wait
        first.die()
        await _picked(world, 2)
        response.close()
        record = await world.record()
        assert record.outcome == common_pb.OUTCOME_CLIENT_DISCONNECTED
        assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (2, 5)
        assert record.usage.source == common_pb.COUNT_SOURCE_ENGINE_RUNNING


async def test_a_client_that_leaves_before_the_second_node_said_anything_pays_for_what_the_first_had() -> None:
    async with fleet() as world:
        first, second, _ = world.nodes
        answer = asyncio.create_task(world.post(stream=True))
        call_id, _ = await first.call()
        first.begin(call_id, b"a", tokens=5)
        response = await answer
        assert await response.content.readany() == b"a"
        first.die()
        call_id, _ = await second.call()
        response.close()
        async with asyncio.timeout(5):
            while not any(frame.cancel for frame in second.told):
                await asyncio.sleep(0.005)
        second.say(call_id, end={"outcome": common_pb.OUTCOME_CLIENT_DISCONNECTED, "usage": {"source": 3}})
        record = await world.record()
        assert record.outcome == common_pb.OUTCOME_CLIENT_DISCONNECTED
        assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (2, 5)


async def test_a_client_that_hangs_up_once_it_has_read_the_last_event_was_served() -> None:
    async with fleet() as world:
        node = world.nodes[0]
        answer = asyncio.create_task(world.post(stream=True))
        call_id, _ = await node.call()
        node.begin(call_id, b"data: [DONE]\n\n", tokens=5)
        response = await answer
        assert await response.content.readany() == b"data: [DONE]\n\n"
        response.close()
        async with asyncio.timeout(5):
            while not any(frame.cancel for frame in node.told):
                await asyncio.sleep(0.005)
        usage = {"prompt_tokens": 2, "completion_tokens": 5, "source": common_pb.COUNT_SOURCE_ENGINE_FINAL}
        node.say(call_id, end={"outcome": common_pb.OUTCOME_CLIENT_DISCONNECTED, "usage": usage})
        record = await world.record()
        assert record.outcome == common_pb.OUTCOME_SUCCEEDED
        assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (2, 5)


async def test_the_clients_own_mistake_is_told_at_once() -> None:
    async with fleet() as world:
        asked = asyncio.create_task(_answered(world, stream=True))
        call_id, _ = await world.nodes[0].call()
        world.nodes[0].answer(call_id, 400, b'{"error":{"message":"no such field","param":"x"}}')
        status, body = await asked
        assert (status, decoded(body)["error"]["message"]) == (400, "no such field")
        assert world.nodes[1].opened == []
        assert world.picks.reports.bad == []


async def test_a_long_stream_outlives_more_deaths_than_a_request_that_ends_its_nodes_may() -> None:
    async with fleet(6) as world:
        answer = asyncio.create_task(world.post(stream=True))
        for number, node in enumerate(world.nodes[:5]):
            call_id, opened = await node.call()
            assert len(opened.resume.token_ids) == number * 4 * PROGRESS_TOKENS
            ids = bytes(4 * PROGRESS_TOKENS)
            tokens = (number + 1) * PROGRESS_TOKENS
            if not number:
                node.begin(call_id, b"x", tokens=tokens)
            else:
                node.say(call_id, head={"status": 200}, data=b"x", ids=ids, completion_tokens=tokens)
            node.die()
        call_id, _ = await world.nodes[5].call()
        world.nodes[5].say(call_id, head={"status": 200}, data=b"end", ids=bytes(4), completion_tokens=41)
        world.nodes[5].end(call_id, tokens=41)
        async with await answer as response:
            assert await response.read() == b"xxxxxend"
        record = await world.record()
        assert (record.attempts, record.usage.completion_tokens) == (6, 41)


async def _refuse(node: Node) -> None:
    number = 0
    while True:
        number += 1
        async with asyncio.timeout(30):
            while len(node.opened) < number:
                await asyncio.sleep(0.001)
        node.answer(node.opened[number - 1][0], 503)


@pytest.mark.parametrize("stream", [True, False])
async def test_client_of_a_models_only_node_is_told_when_that_node_can_be_asked_again(*, stream: bool) -> None:
    async with fleet(1) as world:
        (node,) = world.nodes
        asking = asyncio.create_task(world.post(stream=stream))
        call_id, _ = await node.call()
        error = common_pb.CallError(code=ErrorCode.OVERLOADED, message="later", retry_after_ms=17_000)
        node.say(call_id, end=pb.RelayEnd(outcome=common_pb.OUTCOME_FAILED, error=error))
        async with await asking as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "17")
            assert decoded(await answer.read())["error"]["code"] == "overloaded"
        assert world.picks.reports.bad == []


async def test_a_fleet_that_refuses_everything_is_asked_a_fifth_more_and_not_three_times_as_often() -> None:
    async with fleet() as world:
        refusing = [asyncio.create_task(_refuse(node)) for node in world.nodes]
        for _ in range(100):
            assert (await _answered(world, stream=False))[0] == 429
        for task in refusing:
            task.cancel()
        await asyncio.gather(*refusing, return_exceptions=True)
        assert 100 < sum(len(node.opened) for node in world.nodes) <= 120 + FailoverPolicy().budget_least


def test_the_budget_is_a_share_of_recent_traffic_and_never_less_than_its_least() -> None:
    budget = RetryBudget(FailoverPolicy(budget_share=0.2, budget_least=3, budget_window_s=10), began_at=100.0)
    assert [budget.take(100.0) for _ in range(5)] == [True, True, True, False, False]
    for _ in range(100):
        budget.asked(101.0)
    assert sum(budget.take(101.0) for _ in range(50)) == 17
    # Half of the window before lies in the last ten seconds: 50 requests, and the 10 retries that they allowed.
    assert not budget.take(115.0)
    assert [budget.take(125.0) for _ in range(4)] == [True, True, True, False]


def test_the_traffic_of_a_worker_that_started_a_moment_ago_counts_in_full() -> None:
    budget = RetryBudget(FailoverPolicy(budget_share=0.2, budget_least=3, budget_window_s=10), began_at=90_000.0)
    for _ in range(100):
        budget.asked(90_004.0)
    assert sum(budget.take(90_005.0) for _ in range(50)) == 20


def test_traffic_of_long_ago_allows_no_retry_though_none_was_asked_for_since() -> None:
    budget = RetryBudget(FailoverPolicy(budget_share=0.2, budget_least=3, budget_window_s=10))
    for number in range(10_000):
        budget.asked(number / 100)  # 100 requests a second for 100 s
    for number in range(100):
        budget.asked(130 + number / 10)  # then 10 a second for 10 s
    assert sum(budget.take(140.0) for _ in range(500)) == 20


async def test_time_that_a_client_may_wait_is_over_and_no_further_node_is_asked() -> None:
    async with fleet(policy=FailoverPolicy(window_s=0.1)) as world:
        asked = asyncio.create_task(_answered(world, stream=True))
        first, second, _ = world.nodes
        call_id, _ = await first.call()
        first.fail(call_id, ErrorCode.ENGINE_UNAVAILABLE)
        await second.call()
        status, body = await asked
        assert (status, decoded(body)["error"]["code"]) == (504, "timeout")
        assert [frame.supersede for frame in second.told] == [True]
