"""The relay against the simulated engine, which knows what it generated for whom."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_node_agent.answer_lessons import learn_answers
from crosslogic_node_agent.assembly import AnswerTemplates
from tests.fakes.node_agent_bench import MODEL, Bench, bench
from tests.fakes.node_agent_sim import SIM_MODEL, Sim, sim_engine

PATHS = {
    pb.ENGINE_API_CHAT_COMPLETIONS: "/v1/chat/completions",
    pb.ENGINE_API_COMPLETIONS: "/v1/completions",
    pb.ENGINE_API_RESPONSES: "/v1/responses",
    pb.ENGINE_API_MESSAGES: "/v1/messages",
}
BODIES: dict[int, dict[str, Any]] = {
    pb.ENGINE_API_CHAT_COMPLETIONS: {"messages": [{"role": "user", "content": "say"}], "max_tokens": 12},
    pb.ENGINE_API_COMPLETIONS: {"prompt": "say", "max_tokens": 12},
    pb.ENGINE_API_RESPONSES: {"input": "say", "max_output_tokens": 12},
    pb.ENGINE_API_MESSAGES: {"messages": [{"role": "user", "content": "say"}], "max_tokens": 12},
}


@pytest.fixture
async def sim() -> AsyncIterator[Sim]:
    async with sim_engine("--step-ms", "2") as sim:
        yield sim


@pytest.fixture
async def relayed(sim: Sim) -> AsyncIterator[Bench]:
    async with bench(port=sim.port, engine_model=SIM_MODEL) as made:
        yield made


@pytest.mark.parametrize("api", BODIES)
@pytest.mark.parametrize("stream", [True, False])
async def test_every_api_is_answered_and_billed_by_the_engines_own_count(
    sim: Sim, relayed: Bench, api: int, stream: bool
) -> None:
    request_id = str(uuid.uuid4())
    _, answer = relayed.gateway.open(BODIES[api], api=api, stream=stream, request_id=request_id)
    await answer.ended.wait()
    assert answer.end.outcome == common_pb.OUTCOME_SUCCEEDED, answer.end
    record = await sim.record(request_id)
    assert answer.end.usage.source == common_pb.COUNT_SOURCE_ENGINE_FINAL
    assert answer.end.usage.completion_tokens == record["generated"] == 12
    assert answer.end.usage.prompt_tokens == record["prompt_tokens"]
    assert SIM_MODEL.encode() not in answer.data
    assert MODEL.encode() in answer.data


async def test_a_client_with_stops_sees_the_engines_own_text(sim: Sim, relayed: Bench) -> None:
    body = {"prompt": "say", "max_tokens": 40, "stop": ["e"]}
    direct = await sim.post("/v1/completions", body)
    _, answer = relayed.gateway.open(body, stream=True)
    await answer.ended.wait()
    assert "".join(event["choices"][0]["text"] for event in answer.events()) == direct["choices"][0]["text"]
    assert answer.end.usage.completion_tokens == direct["usage"]["completion_tokens"]


@pytest.fixture
async def assembling(sim: Sim) -> AsyncIterator[Bench]:
    templates = AnswerTemplates(from_tokens=1)
    await learn_answers(sim.api, await sim.api.facts(), templates)
    async with bench(port=sim.port, engine_model=SIM_MODEL, templates=templates) as made:
        yield made


@pytest.mark.parametrize("api", [pb.ENGINE_API_CHAT_COMPLETIONS, pb.ENGINE_API_COMPLETIONS])
@pytest.mark.parametrize("more", [{}, {"stop": ["e"]}, {"return_token_ids": True}, {"n": 2, "temperature": 1}])
async def test_an_assembled_answer_is_the_engines_own(
    sim: Sim, relayed: Bench, assembling: Bench, api: int, more: dict[str, Any]
) -> None:
    answers = []
    for bench_ in (relayed, assembling):
        _, answer = bench_.gateway.open(
            BODIES[api] | more, api=api, request_id="same", return_token_ids="return_token_ids" in more
        )
        await answer.ended.wait()
        assert answer.head.content_type.startswith("application/json")
        # The relayed one names the engine's own fields; what differs between two answers is when they were made.
        answers.append((msgspec.json.decode(answer.data) | {"created": 0}, answer.end))
    assert answers[0] == answers[1]


async def test_a_client_that_leaves_a_whole_answer_pays_for_exactly_what_was_generated(
    sim: Sim, assembling: Bench
) -> None:
    for api in (pb.ENGINE_API_CHAT_COMPLETIONS, pb.ENGINE_API_COMPLETIONS):
        request_id = str(uuid.uuid4())
        call_id, answer = assembling.gateway.open(BODIES[api] | {"max_tokens": 4000}, api=api, request_id=request_id)
        await asyncio.sleep(0.2)
        assembling.gateway.cancel(call_id)
        await answer.ended.wait()
        record = await sim.record(request_id)
        assert answer.data == b""
        assert answer.end.usage.source == common_pb.COUNT_SOURCE_ENGINE_RUNNING
        assert answer.end.usage.completion_tokens == record["generated"] > 10


@pytest.mark.parametrize("fault", [{"cut_after_tokens": 5}, {"error_after_tokens": 5}, {"cut_before_usage": True}])
async def test_a_whole_answer_that_breaks_is_a_failure_and_not_half_an_answer(
    sim: Sim, assembling: Bench, fault: dict[str, Any]
) -> None:
    await sim.post("/sim/faults", fault)
    _, answer = assembling.gateway.open(BODIES[pb.ENGINE_API_COMPLETIONS])
    await answer.ended.wait()
    assert answer.end.outcome == common_pb.OUTCOME_FAILED
    assert answer.data == b""
    await sim.post("/sim/faults", {"status": 503})
    _, answer = assembling.gateway.open(BODIES[pb.ENGINE_API_COMPLETIONS])
    await answer.ended.wait()
    assert answer.head.status == 503


@pytest.mark.parametrize("more", [{"n": 3, "temperature": 1}, {"prompt": ["one", "two words"]}])
async def test_several_choices_are_all_counted_when_the_client_leaves(
    sim: Sim, relayed: Bench, more: dict[str, Any]
) -> None:
    request_id = str(uuid.uuid4())
    call_id, answer = relayed.gateway.open(
        {"prompt": "say", "max_tokens": 2000} | more, stream=True, request_id=request_id
    )
    await answer.first.wait()
    await asyncio.sleep(0.1)
    relayed.gateway.cancel(call_id)
    await answer.ended.wait()
    record = await sim.record(request_id)
    assert answer.end.usage.source == common_pb.COUNT_SOURCE_ENGINE_RUNNING
    assert answer.end.usage.completion_tokens == record["generated"] > 3
    assert answer.end.usage.prompt_tokens == record["prompt_tokens"]


@pytest.mark.parametrize(
    "fault",
    [
        {"cut_after_tokens": 5},
        {"garbage_after_tokens": 5},
        {"error_after_tokens": 5},
        {"abort_after_tokens": 5},
        {"cut_before_usage": True},
    ],
)
async def test_no_broken_stream_of_the_engine_looks_like_a_success(
    sim: Sim, relayed: Bench, fault: dict[str, Any]
) -> None:
    await sim.post("/sim/faults", fault)
    for api in (pb.ENGINE_API_CHAT_COMPLETIONS, pb.ENGINE_API_COMPLETIONS):
        for stream in (True, False):
            if not stream and "cut_before_usage" in fault:
                continue
            _, answer = relayed.gateway.open(BODIES[api], api=api, stream=stream)
            await answer.ended.wait()
            assert answer.end.outcome == common_pb.OUTCOME_FAILED, (api, stream)
            assert b"[DONE]" not in answer.data


async def test_an_engine_that_dies_in_mid_answer_fails_all_its_calls_at_once(sim: Sim, relayed: Bench) -> None:
    await sim.post("/sim/faults", {"die_after_tokens": 200})
    answers = [relayed.gateway.open({"prompt": "say", "max_tokens": 500}, stream=True)[1] for _ in range(20)]
    async with asyncio.timeout(5):
        await asyncio.gather(*(answer.ended.wait() for answer in answers))
    assert {answer.end.error.code for answer in answers} == {"ENGINE_ERROR"}
    _, late = relayed.gateway.open({"prompt": "say"}, stream=True)
    await late.ended.wait()
    assert late.end.error.code == "ENGINE_UNAVAILABLE"


async def test_a_thousand_disconnects_are_billed_to_the_token_and_memory_stays_flat(sim: Sim, relayed: Bench) -> None:
    draw = random.Random(11)
    wrong: list[tuple[int, int]] = []

    async def one() -> None:
        request_id = str(uuid.uuid4())
        api = draw.choice((pb.ENGINE_API_CHAT_COMPLETIONS, pb.ENGINE_API_COMPLETIONS))
        body = BODIES[api] | {"max_tokens": 4000}
        call_id, answer = relayed.gateway.open(body, api=api, stream=True, request_id=request_id)
        await asyncio.sleep(draw.random() * 0.08)
        relayed.gateway.cancel(call_id)
        await answer.ended.wait()
        record = await sim.record(request_id)
        if answer.end.usage.completion_tokens != record.get("generated", 0):
            wrong.append((answer.end.usage.completion_tokens, record.get("generated", 0)))
        del relayed.gateway.calls[call_id]

    sizes: list[int] = []
    for _ in range(20):
        await asyncio.gather(*(one() for _ in range(50)))
        sizes.append(_resident_bytes())
    assert wrong == []
    assert relayed.relay.running == 0
    assert sizes[-1] - sizes[3] < 8 * 1024 * 1024
    state = msgspec.json.decode((await sim.api.fetch("GET", "/sim/state", timeout_s=5))[1])
    assert state["running"] == state["waiting"] == 0


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
