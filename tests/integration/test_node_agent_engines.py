"""What the agent claims of engines, on the simulated one and, where it is installed, on real vLLM."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_node_agent.answer_lessons import learn_answers
from crosslogic_node_agent.assembly import AnswerTemplates
from crosslogic_node_agent.domain import EngineAddress
from crosslogic_node_agent.engine_api import EngineApi
from crosslogic_node_agent.engine_connection import EnginePool
from tests.fakes.engine_server import RunningEngine, sim_engine
from tests.fakes.node_agent_bench import MODEL, Bench, bench

CHAT, COMPLETIONS = pb.ENGINE_API_CHAT_COMPLETIONS, pb.ENGINE_API_COMPLETIONS
SAY = [{"role": "user", "content": "the big river"}]
BODIES: dict[int, dict[str, Any]] = {
    CHAT: {"messages": SAY, "max_tokens": 30, "temperature": 0},
    COMPLETIONS: {"prompt": "the big river", "max_tokens": 30, "temperature": 0},
    pb.ENGINE_API_RESPONSES: {"input": "the big river", "max_output_tokens": 20},
    pb.ENGINE_API_MESSAGES: {"messages": SAY, "max_tokens": 20},
}


@pytest.fixture(scope="module", params=["sim", "vllm"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    if request.param == "vllm":
        yield request.getfixturevalue("real_vllm")
        return
    with sim_engine("--step-ms", "2", folder=tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture
async def api(engine: RunningEngine) -> AsyncIterator[EngineApi]:
    pool = EnginePool(EngineAddress(host="127.0.0.1", port=engine.port))
    yield EngineApi(pool)
    pool.close()


@pytest.fixture
async def relayed(engine: RunningEngine) -> AsyncIterator[Bench]:
    async with bench(port=engine.port, engine_model=engine.model) as made:
        yield made


@pytest.fixture
async def assembling(engine: RunningEngine, api: EngineApi) -> AsyncIterator[Bench]:
    templates = AnswerTemplates(from_tokens=1)
    await learn_answers(api, await api.facts(), templates)
    async with bench(port=engine.port, engine_model=engine.model, templates=templates) as made:
        yield made


async def test_an_engine_is_known_by_what_it_says_of_itself(engine: RunningEngine, api: EngineApi) -> None:
    facts = await api.facts()
    assert facts.served_models == (engine.model,)
    assert facts.context_length == engine.context_tokens
    assert {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"} <= set(facts.paths)
    assert ("/v1/embeddings" in facts.paths) is (engine.kind == "sim")
    load = await api.load()
    assert load.running == 0


@pytest.mark.parametrize("number", BODIES)
@pytest.mark.parametrize("stream", [True, False])
async def test_every_api_is_relayed_under_the_catalogues_name_and_counted(
    engine: RunningEngine, relayed: Bench, number: int, stream: bool
) -> None:
    _, answer = relayed.gateway.open(BODIES[number], api=number, stream=stream)
    await answer.ended.wait()
    assert answer.end.outcome == common_pb.OUTCOME_SUCCEEDED, answer.end
    assert answer.end.usage.source == common_pb.COUNT_SOURCE_ENGINE_FINAL
    assert answer.end.usage.completion_tokens == (30 if number in (CHAT, COMPLETIONS) else 20)
    assert answer.end.usage.prompt_tokens > 0
    assert engine.model.encode() not in answer.data
    assert MODEL.encode() in answer.data
    if stream and number in (CHAT, COMPLETIONS):
        assert len(answer.head.prompt_ids) == answer.end.usage.prompt_tokens * 4
        assert sum(len(frame.ids) for frame in answer.frames) == 30 * 4


@pytest.mark.parametrize("number", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("more", [{}, {"stop": ["e"]}, {"return_token_ids": True}])
async def test_an_assembled_answer_has_every_field_of_the_engines_own(
    relayed: Bench, assembling: Bench, number: int, more: dict[str, Any]
) -> None:
    answers = []
    for one in (relayed, assembling):
        _, answer = one.gateway.open(
            BODIES[number] | more, api=number, request_id="same", return_token_ids="return_token_ids" in more
        )
        await answer.ended.wait()
        answers.append((msgspec.json.decode(answer.data) | {"created": 0}, answer.end))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("stream", [True, False])
async def test_clients_that_leave_are_billed_what_the_engine_generated(
    engine: RunningEngine, api: EngineApi, assembling: Bench, stream: bool
) -> None:
    draw = random.Random(3)
    before = (await api.load()).generation_tokens_total
    billed = 0
    leavers = 20
    for _ in range(leavers):
        body = {"prompt": "the big river", "max_tokens": 3000, "ignore_eos": True}
        call_id, answer = assembling.gateway.open(body, stream=stream)
        await asyncio.sleep(0.05 + draw.random() * 0.2)
        assembling.gateway.cancel(call_id)
        await answer.ended.wait()
        billed += answer.end.usage.completion_tokens
    await asyncio.to_thread(engine.wait_idle)
    generated = (await api.load()).generation_tokens_total - before
    # An engine may be a token further than what it had written when it heard of the end: that one is never billed.
    assert billed <= generated <= billed + leavers
    assert billed > leavers
