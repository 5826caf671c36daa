"""The relay against an engine on a real socket."""

import asyncio
import gc
import random
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError
from crosslogic_node_agent.assembly import AnswerTemplates
from crosslogic_node_agent.continuation import unpacked
from crosslogic_node_agent.domain import Ending
from crosslogic_node_agent.whole_call import infer
from tests.fakes.node_agent_bench import MODEL, Bench, bench, relay_open
from tests.fakes.node_agent_engine import FakeEngine

AT_ONCE_S = 1.0
"""Milliseconds on an idle machine, a few hundred on a loaded one; not the seconds of a timeout."""


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine() as engine:
        yield engine


@pytest.fixture
async def relayed(engine: FakeEngine) -> AsyncIterator[Bench]:
    async with bench(port=engine.port) as made:
        yield made


def completion(tokens: int = 4, **steer: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": "a", "max_tokens": tokens, "x": steer}


async def test_a_stream_reaches_the_client_without_what_only_accounting_asked_for(relayed: Bench) -> None:
    _, answer = relayed.gateway.open(completion(3), stream=True)
    await answer.ended.wait()
    events = answer.events()
    assert [event["choices"][0]["text"] for event in events] == ["y", "y", "y"]
    assert all("usage" not in event and "token_ids" not in event["choices"][0] for event in events)
    assert all("prompt_token_ids" not in event["choices"][0] for event in events)
    assert {event["model"] for event in events} == {MODEL}
    assert answer.data.endswith(b"data: [DONE]\n\n")
    assert answer.head.status == 200
    assert unpacked(answer.head.prompt_ids) == [1, 2, 3]
    assert answer.tokens() == [101, 102, 103]
    assert answer.end.outcome == common_pb.OUTCOME_SUCCEEDED
    assert answer.end.usage == common_pb.TokenUsage(
        prompt_tokens=3, completion_tokens=3, source=common_pb.COUNT_SOURCE_ENGINE_FINAL
    )
    assert [(count.completion_tokens, ending) for _, count, ending, _ in relayed.witnesses.kept] == [
        (3, Ending.SUCCEEDED)
    ]


async def test_a_client_that_asks_for_usage_gets_it_as_openai_sends_it(relayed: Bench) -> None:
    _, answer = relayed.gateway.open(completion(2), stream=True, include_usage=True)
    await answer.ended.wait()
    events = answer.events()
    assert [event["usage"] for event in events[:-1]] == [None, None]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 2


async def test_a_client_that_asks_for_ids_and_running_usage_gets_both(relayed: Bench) -> None:
    _, answer = relayed.gateway.open(
        completion(2), stream=True, include_usage=True, continuous_usage=True, return_token_ids=True
    )
    await answer.ended.wait()
    events = answer.events()
    assert [event["usage"]["completion_tokens"] for event in events] == [1, 2, 2]
    assert [event["choices"][0]["token_ids"] for event in events[:-1]] == [[101], [102]]


async def test_the_engine_gets_the_orgs_salt_and_not_the_clients(engine: FakeEngine, relayed: Bench) -> None:
    request_id = str(uuid.uuid4())
    body = completion() | {"cache_salt": "another-tenants", "priority": -5, "request_id": "x", "user": "kept"}
    _, answer = relayed.gateway.open(body, request_id=request_id, stream=True)
    await answer.ended.wait()
    seen = engine.seen[request_id].body
    assert seen["cache_salt"] == "salt"
    assert seen["model"] == "engine-model"
    assert seen["user"] == "kept"
    assert "priority" not in seen
    assert "request_id" not in seen


async def test_an_answer_that_does_not_stream_comes_whole_in_one_frame(relayed: Bench) -> None:
    _, answer = relayed.gateway.open(completion(6))
    await answer.ended.wait()
    assert len(answer.frames) == 1
    assert answer.head.status == 200
    assert msgspec.json.decode(answer.data)["model"] == MODEL
    assert answer.end.usage.completion_tokens == 6
    assert answer.end.usage.source == common_pb.COUNT_SOURCE_ENGINE_FINAL


async def test_messages_are_counted_from_their_own_events(relayed: Bench) -> None:
    _, answer = relayed.gateway.open({"messages": []}, api=pb.ENGINE_API_MESSAGES, stream=True)
    await answer.ended.wait()
    assert answer.end.outcome == common_pb.OUTCOME_SUCCEEDED
    assert (answer.end.usage.prompt_tokens, answer.end.usage.completion_tokens) == (7, 9)
    assert answer.events()[0]["message"]["model"] == MODEL


@pytest.mark.parametrize("fault", ["cut", "garbage", "error_event", "quiet_end"])
async def test_a_broken_engine_stream_never_ends_as_a_success(relayed: Bench, fault: str) -> None:
    _, answer = relayed.gateway.open(completion(9, fault=fault, after=3), stream=True)
    await answer.ended.wait()
    assert answer.end.outcome == common_pb.OUTCOME_FAILED
    assert answer.end.error.code == "ENGINE_ERROR"
    assert "10.0.0.1" not in answer.end.error.message
    assert b"10.0.0.1" not in answer.data
    assert b"[DONE]" not in answer.data
    assert len(answer.events()) == 3
    assert answer.end.usage.completion_tokens == 3


async def test_a_refusal_of_the_engine_passes_with_its_body_and_costs_nothing(relayed: Bench) -> None:
    for stream in (False, True):
        _, answer = relayed.gateway.open(completion(status=400), stream=stream)
        await answer.ended.wait()
        assert answer.head.status == 400
        assert msgspec.json.decode(answer.data)["error"]["type"] == "BadRequestError"
        assert answer.end.outcome == common_pb.OUTCOME_FAILED
        assert answer.end.usage.source == common_pb.COUNT_SOURCE_NONE


@pytest.mark.parametrize("body", [b"[1]", b"{", b'{"a": NaN}', b'{"a": 1e999}', b"{}" + b" " * 11_000_000, b"\xff"])
async def test_a_bad_body_never_reaches_the_engine(engine: FakeEngine, relayed: Bench, body: bytes) -> None:
    _, answer = relayed.gateway.open(body)
    await answer.ended.wait()
    assert answer.end.error.code in ("INVALID_ARGUMENT", "REQUEST_TOO_LARGE")
    assert engine.seen == {}


async def test_a_request_id_cannot_smuggle_a_header_to_the_engine(engine: FakeEngine, relayed: Bench) -> None:
    _, answer = relayed.gateway.open(completion(), request_id="a\r\nX-Evil: 1")
    await answer.ended.wait()
    assert answer.end.error.code == "INVALID_ARGUMENT"
    assert engine.seen == {}


async def test_a_client_that_leaves_stops_the_engine_at_once_and_pays_for_what_it_got(
    engine: FakeEngine, relayed: Bench
) -> None:
    request_id = str(uuid.uuid4())
    call_id, answer = relayed.gateway.open(completion(10_000, delay_ms=2), request_id=request_id, stream=True)
    await answer.first.wait()
    await asyncio.sleep(0.05)
    started = time.perf_counter()
    relayed.gateway.cancel(call_id)
    await engine.seen[request_id].hung_up.wait()
    told_s = time.perf_counter() - started
    await answer.ended.wait()
    assert told_s < AT_ONCE_S
    assert answer.end.outcome == common_pb.OUTCOME_CLIENT_DISCONNECTED
    assert answer.end.usage.source == common_pb.COUNT_SOURCE_ENGINE_RUNNING
    # The last ones may lie with the agent, counted, or in the socket that it closed, not counted.
    counted = answer.end.usage.completion_tokens
    assert 0 <= counted - len(answer.tokens()) <= 1
    assert 0 <= engine.seen[request_id].tokens_sent - counted <= 1


async def test_a_client_that_leaves_before_the_first_token_stops_the_engine(engine: FakeEngine, relayed: Bench) -> None:
    for stream in (True, False):
        request_id = str(uuid.uuid4())
        call_id, answer = relayed.gateway.open(completion(9, delay_ms=5000), request_id=request_id, stream=stream)
        while request_id not in engine.seen:
            await asyncio.sleep(0.005)
        relayed.gateway.cancel(call_id)
        async with asyncio.timeout(AT_ONCE_S):
            await engine.seen[request_id].hung_up.wait()
            await answer.ended.wait()
        assert answer.end.usage.source == common_pb.COUNT_SOURCE_NONE


async def test_a_thousand_disconnects_at_random_count_what_the_client_got_and_leak_nothing(
    engine: FakeEngine, relayed: Bench
) -> None:
    draw = random.Random(7)
    unread = 0

    async def one() -> None:
        nonlocal unread
        request_id = str(uuid.uuid4())
        call_id, answer = relayed.gateway.open(completion(500, delay_ms=1), request_id=request_id, stream=True)
        await asyncio.sleep(draw.random() * 0.05)
        relayed.gateway.cancel(call_id)
        await answer.ended.wait()
        seen = engine.seen.pop(request_id, None)
        sent = seen.tokens_sent if seen else 0
        counted = answer.end.usage.completion_tokens
        assert len(answer.tokens()) <= counted <= sent
        unread += sent - counted
        del relayed.gateway.calls[call_id]

    for _ in range(20):
        await asyncio.gather(*(one() for _ in range(50)))
    # What the engine had just written when the agent hung up is with nobody.
    assert unread <= 20
    assert relayed.relay.running == 0
    assert len(relayed.witnesses.kept) == 1000
    gc.collect()
    # The loops' own variables may hold on to the last one.
    assert len([found for found in gc.get_objects() if type(found).__name__ == "RelayCall"]) <= 2


async def test_a_slow_reader_stops_its_own_engine_request_and_nobody_elses(engine: FakeEngine, relayed: Bench) -> None:
    slow_id = str(uuid.uuid4())
    slow_call, slow = relayed.gateway.open(completion(5000, pad=2000), request_id=slow_id, stream=True)
    await asyncio.sleep(0.3)
    sent = len(slow.data)
    assert sent <= 262_144
    # What the engine could send beyond that sits in the sockets' buffers.
    assert engine.seen[slow_id].tokens_sent < 5000
    started = time.perf_counter()
    _, other = relayed.gateway.open(completion(20), stream=True)
    await other.ended.wait()
    assert time.perf_counter() - started < 2 * AT_ONCE_S
    assert len(slow.data) == sent
    while not slow.ended.is_set():
        relayed.gateway.credit(slow_call, 1_000_000)
        await asyncio.sleep(0.01)
    assert slow.end.outcome == common_pb.OUTCOME_SUCCEEDED
    assert len(slow.events()) == 5000


async def test_a_large_whole_answer_waits_for_credit_and_arrives_unchanged(relayed: Bench) -> None:
    call_id, answer = relayed.gateway.open(completion(10, pad=100_000))
    await answer.first.wait()
    await asyncio.sleep(0.05)
    assert len(answer.data) <= 262_144
    assert not answer.ended.is_set()
    relayed.gateway.credit(call_id, 10_000_000)
    await answer.ended.wait()
    assert len(msgspec.json.decode(answer.data)["choices"][0]["text"]) == 1_000_000


async def test_frames_of_many_streams_share_a_message_while_a_write_is_in_flight(relayed: Bench) -> None:
    relayed.gateway.reading.clear()
    answers = [relayed.gateway.open(completion(5), stream=True)[1] for _ in range(50)]
    await asyncio.sleep(0.2)
    relayed.gateway.reading.set()
    await asyncio.gather(*(answer.ended.wait() for answer in answers))
    assert relayed.gateway.messages <= 10


async def test_a_silent_engine_ends_at_the_first_byte_and_at_the_idle_limit(engine: FakeEngine, relayed: Bench) -> None:
    for after, limits in ((0, {"first_byte_timeout_ms": 100}), (3, {"idle_timeout_ms": 100})):
        request_id = str(uuid.uuid4())
        _, answer = relayed.gateway.open(
            completion(9, fault="hang", after=after), request_id=request_id, stream=True, **limits
        )
        async with asyncio.timeout(1):
            await answer.ended.wait()
        assert answer.end.outcome == common_pb.OUTCOME_TIMED_OUT
        assert answer.end.error.code == "TIMEOUT"
        assert answer.end.usage.completion_tokens == after
        async with asyncio.timeout(AT_ONCE_S):
            await engine.seen[request_id].hung_up.wait()


async def test_an_answer_that_the_engine_sends_whole_has_a_limit_of_its_own(relayed: Bench) -> None:
    # Its first byte is the whole answer: with tools, say, and of minutes.
    body = completion(10, delay_ms=60)
    _, answer = relayed.gateway.open(body, first_byte_timeout_ms=200, whole_timeout_ms=20_000)
    async with asyncio.timeout(20):
        await answer.ended.wait()
    assert answer.end.outcome == common_pb.OUTCOME_SUCCEEDED
    assert len(answer.frames) > 1, "the gateway was not told that it goes on"
    body = completion(90, delay_ms=60)
    _, answer = relayed.gateway.open(body, first_byte_timeout_ms=200, whole_timeout_ms=300)
    async with asyncio.timeout(20):
        await answer.ended.wait()
    assert answer.end.outcome == common_pb.OUTCOME_TIMED_OUT


async def test_an_engine_that_is_gone_is_told_as_unavailable_and_without_its_address(engine: FakeEngine) -> None:
    await engine.close()
    async with bench(port=engine.port) as relayed:
        _, answer = relayed.gateway.open(completion(), stream=True)
        await answer.ended.wait()
        assert answer.end.error.code == "ENGINE_UNAVAILABLE"
        assert str(engine.port) not in answer.end.error.message
        assert not answer.frames[0].HasField("head")


async def test_a_connection_that_the_engine_closed_while_idle_costs_no_request(engine: FakeEngine) -> None:
    async with bench(port=engine.port) as relayed:
        _, first = relayed.gateway.open(completion())
        await first.ended.wait()
        await engine.close()
        async with FakeEngine(port=engine.port):
            _, second = relayed.gateway.open(completion())
            await second.ended.wait()
            assert second.end.outcome == common_pb.OUTCOME_SUCCEEDED


async def test_a_gateway_that_dies_stops_all_its_requests_and_leaves_their_witnesses(engine: FakeEngine) -> None:
    async with bench(port=engine.port) as relayed:
        ids = [str(uuid.uuid4()) for _ in range(20)]
        answers = [relayed.gateway.open(completion(10_000, delay_ms=2), request_id=id_, stream=True)[1] for id_ in ids]
        await asyncio.gather(*(answer.first.wait() for answer in answers))
        relayed.session.cancel()
        async with asyncio.timeout(AT_ONCE_S):
            await asyncio.gather(*(engine.seen[id_].hung_up.wait() for id_ in ids))
        assert [ending for _, _, ending, _ in relayed.witnesses.kept] == [Ending.FAILED] * 20
        assert all(count.completion_tokens > 0 for _, count, _, _ in relayed.witnesses.kept)
        assert relayed.relay.running == 0


async def test_more_calls_than_the_node_takes_are_refused_at_once(engine: FakeEngine) -> None:
    async with bench(port=engine.port, max_calls=2) as relayed:
        for _ in range(2):
            relayed.gateway.open(completion(1000, delay_ms=5), stream=True)
        _, third = relayed.gateway.open(completion(), stream=True)
        await third.ended.wait()
        assert third.end.error.code == "OVERLOADED"


async def test_node_of_one_organisation_refuses_the_request_of_every_other(engine: FakeEngine) -> None:
    async with bench(port=engine.port, org_id="owner") as relayed:
        for org_id in ("", "somebody else"):
            _, answer = relayed.gateway.open(completion(), stream=True, org_id=org_id)
            await answer.ended.wait()
            assert answer.end.error.code == "PERMISSION_DENIED"
            assert not answer.data
        _, answer = relayed.gateway.open(completion(), stream=True, org_id="owner")
        await answer.ended.wait()
        assert answer.end.outcome == common_pb.OUTCOME_SUCCEEDED
    assert len(engine.seen) == 1


async def test_a_stop_lets_running_requests_finish_and_refuses_new_ones(engine: FakeEngine) -> None:
    async with bench(port=engine.port) as relayed:
        _, running = relayed.gateway.open(completion(60, delay_ms=5), stream=True)
        await running.first.wait()
        drain = asyncio.create_task(relayed.relay.drain(5.0, 0.0))
        await asyncio.sleep(0.05)
        _, refused = relayed.gateway.open(completion(), stream=True)
        await refused.ended.wait()
        assert refused.end.error.code == "NODE_DRAINING"
        await drain
        await running.ended.wait()
        assert running.end.outcome == common_pb.OUTCOME_SUCCEEDED


async def test_one_unary_call_gives_the_same_answer_and_unknown_models_are_refused(relayed: Bench) -> None:
    answer = await infer(relayed.relay, relay_open(completion(3)))
    assert msgspec.json.decode(answer.data)["usage"]["completion_tokens"] == 3
    assert answer.end.outcome == common_pb.OUTCOME_SUCCEEDED
    with pytest.raises(CodedError, match="MODEL_NOT_FOUND"):
        await infer(relayed.relay, relay_open(completion(3), model="other"))


async def test_a_whole_answer_that_takes_long_says_that_it_goes_on_before_its_gateway_gives_it_up() -> None:
    templates = AnswerTemplates(from_tokens=1)
    usage = {"prompt_tokens": 1, "total_tokens": 2, "completion_tokens": 1}
    template = {"id": "", "model": "", "choices": [{"index": 0, "text": "", "finish_reason": None}], "usage": usage}
    templates.learn(pb.ENGINE_API_COMPLETIONS, msgspec.json.encode(template))
    async with FakeEngine() as engine, bench(port=engine.port, templates=templates) as relayed:
        _, answer = relayed.gateway.open(completion(24, delay_ms=50), first_byte_timeout_ms=1_000)
        await answer.ended.wait()
    empty = [frame for frame in answer.frames if not frame.data and not frame.HasField("end")]
    assert 1 <= len(empty) <= 9
    assert not any(frame.HasField("head") for frame in empty), "until the answer comes another node can be asked"
    assert answer.end.outcome == common_pb.OUTCOME_SUCCEEDED
    assert answer.data
