"""An application written against OpenAI's client works unchanged, and is billed what it was told."""

import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from crosslogic_dev.suite import Suite
from tests.fakes.e2e_clients import async_client, client
from tests.fakes.e2e_ledger import Ledger
from tests.fakes.e2e_sim import Sims

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say something"}]
UNASKED = ("token_ids", "prompt_token_ids", "usage")


@pytest.fixture(scope="module", params=["sim", "vllm"])
def suite(request: pytest.FixtureRequest) -> Suite:
    """Each test here runs against the simulated engine and against the real one."""
    found: Suite = request.getfixturevalue("simulation" if request.param == "sim" else "vllm")
    return found


@pytest.fixture
def api(suite: Suite) -> Iterator[openai.OpenAI]:
    with client(suite) as opened:
        yield opened


def _billed(ledger: Ledger, request_id: str, usage: openai.types.CompletionUsage | None, *, stream: bool) -> None:
    assert usage is not None
    record = ledger.record(request_id)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert record["total_tokens"] == usage.total_tokens
    # A client that hangs up once it has read `[DONE]` may be seen to leave before the node's last word comes.
    assert record["outcome"] in ({"succeeded", "client_disconnected"} if stream else {"succeeded"})
    assert record["stream"] is stream
    assert record["count_source"] == "engine_final"
    # $0.05 and $0.10 for a million tokens.
    assert record["cost_picodollars"] == usage.prompt_tokens * 50_000 + usage.completion_tokens * 100_000


def test_chat_answer_is_billed_what_its_usage_says(suite: Suite, ledger: Ledger, api: openai.OpenAI) -> None:
    raw = api.chat.completions.with_raw_response.create(model=suite.model_name, messages=HELLO, max_tokens=7)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("length", "stop")
    _billed(ledger, raw.headers["x-request-id"], answer.usage, stream=False)


def test_completion_is_billed_what_its_usage_says(suite: Suite, ledger: Ledger, api: openai.OpenAI) -> None:
    raw = api.completions.with_raw_response.create(model=suite.model_name, prompt="Once upon", max_tokens=5)
    answer = raw.parse()
    assert answer.choices[0].text
    _billed(ledger, raw.headers["x-request-id"], answer.usage, stream=False)


def test_several_choices_are_all_billed_and_the_prompt_once(suite: Suite, ledger: Ledger, api: openai.OpenAI) -> None:
    raw = api.completions.with_raw_response.create(
        model=suite.model_name, prompt="Once upon", max_tokens=5, n=3, temperature=1.0
    )
    answer = raw.parse()
    assert len(answer.choices) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens > answer.usage.prompt_tokens
    _billed(ledger, raw.headers["x-request-id"], answer.usage, stream=False)


def test_stream_tells_its_usage_when_asked_and_is_billed_that(suite: Suite, ledger: Ledger, api: openai.OpenAI) -> None:
    raw = api.chat.completions.with_raw_response.create(
        model=suite.model_name,
        messages=HELLO,
        max_tokens=9,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(raw.parse())
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    _billed(ledger, raw.headers["x-request-id"], chunks[-1].usage, stream=True)


def test_stream_that_did_not_ask_for_usage_is_billed_all_the_same(
    suite: Suite, ledger: Ledger, api: openai.OpenAI
) -> None:
    raw = api.completions.with_raw_response.create(model=suite.model_name, prompt="Once", max_tokens=6, stream=True)
    chunks = list(raw.parse())
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices, "a usage chunk that was not asked for"
    record = ledger.record(raw.headers["x-request-id"])
    assert record["completion_tokens"] == 6
    assert record["prompt_tokens"] > 0
    assert record["cost_picodollars"] == record["prompt_tokens"] * 50_000 + 6 * 100_000


@pytest.mark.parametrize(
    ("path", "prompt"),
    [("/v1/completions", {"prompt": "Once"}), ("/v1/chat/completions", {"messages": HELLO})],
)
def test_chunks_carry_nothing_that_was_not_asked_for(suite: Suite, path: str, prompt: dict[str, object]) -> None:
    body = {"model": suite.model_name, "max_tokens": 4, "stream": True, **prompt}
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {suite.api_key}"}) as http:
        answer = http.post(f"{suite.base_url}{path}", json=body, timeout=30)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    assert len(lines) > 4
    for line in lines[:-1]:
        event = json.loads(line)
        for place in (event, *event["choices"]):
            assert [name for name in UNASKED if place.get(name) is not None] == []
        assert event["model"] == suite.model_name


async def test_asynchronous_client_gets_the_same(suite: Suite, ledger: Ledger) -> None:
    async with async_client(suite) as api:
        raw = await api.chat.completions.with_raw_response.create(model=suite.model_name, messages=HELLO, max_tokens=7)
        _billed(ledger, raw.headers["x-request-id"], raw.parse().usage, stream=False)
        streamed = await api.chat.completions.with_raw_response.create(
            model=suite.model_name,
            messages=HELLO,
            max_tokens=7,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in streamed.parse()]
        _billed(ledger, streamed.headers["x-request-id"], chunks[-1].usage, stream=True)


def test_answers_are_those_of_the_engine_whether_streamed_or_not(suite: Suite, api: openai.OpenAI) -> None:
    whole = api.completions.create(model=suite.model_name, prompt="Once upon a time", max_tokens=24, temperature=0)
    streamed = api.completions.create(
        model=suite.model_name, prompt="Once upon a time", max_tokens=24, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text


def test_responses_and_messages_are_billed_what_they_say(suite: Suite, ledger: Ledger, api: openai.OpenAI) -> None:
    raw = api.responses.with_raw_response.create(model=suite.model_name, input="Hello", max_output_tokens=6)
    usage = raw.parse().usage
    assert usage is not None
    record = ledger.record(raw.headers["x-request-id"])
    assert (record["prompt_tokens"], record["completion_tokens"]) == (usage.input_tokens, usage.output_tokens)
    assert record["api"] == "/v1/responses"

    message = httpx.post(
        f"{suite.base_url}/v1/messages",
        headers={"x-api-key": suite.api_key},
        json={"model": suite.model_name, "max_tokens": 6, "messages": [{"role": "user", "content": "Hello"}]},
        timeout=30,
        trust_env=False,
    )
    assert message.status_code == 200
    told = message.json()["usage"]
    record = ledger.record(message.headers["x-request-id"])
    assert (record["prompt_tokens"], record["completion_tokens"]) == (told["input_tokens"], told["output_tokens"])


def test_model_list_shows_the_models_that_the_key_may_use(suite: Suite, api: openai.OpenAI) -> None:
    assert [model.id for model in api.models.list()] == [suite.model_name]
    assert api.models.retrieve(suite.model_name).id == suite.model_name
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("no-such-model")


def test_embeddings_are_billed_for_their_input_only(simulation: Suite) -> None:
    with client(simulation) as api:
        raw = api.embeddings.with_raw_response.create(
            model=simulation.model_name, input=["one text", "another"], encoding_format="float"
        )
    answer = raw.parse()
    assert len(answer.data) == 2
    assert answer.data[0].embedding
    record = Ledger(simulation).record(raw.headers["x-request-id"])
    assert (record["prompt_tokens"], record["completion_tokens"]) == (answer.usage.prompt_tokens, 0)
    assert record["cost_picodollars"] == answer.usage.prompt_tokens * 50_000


def test_embeddings_of_a_model_without_them_are_refused_as_the_client_expects(vllm: Suite) -> None:
    with client(vllm) as api, pytest.raises(openai.NotFoundError) as caught:
        api.embeddings.create(model=vllm.model_name, input="text", encoding_format="float")
    assert "127.0.0.1" not in str(caught.value)


def test_usage_of_a_tenant_adds_up_to_its_records(simulation: Suite) -> None:
    org = {"org_id": simulation.org_id}
    records = list(simulation.admin.all_of("/admin/usage/records", org_id=org["org_id"], page_size=1000))
    summed = simulation.admin.must("GET", f"/admin/usage?org_id={org['org_id']}")["data"][0]
    assert summed["requests"] == len(records) > 0
    for column in ("prompt_tokens", "completion_tokens", "total_tokens", "cost_picodollars"):
        assert summed[column] == sum(record[column] for record in records)


def test_salt_of_a_tenants_prefix_cache_reaches_the_engine_and_is_its_own(simulation: Suite) -> None:
    admin, sims = simulation.admin, Sims(simulation)
    salts = []
    for name in ("first", "second"):
        org = admin.must("POST", "/admin/orgs", {"name": name})["id"]
        environment = admin.must("POST", f"/admin/orgs/{org}/environments", {"name": "e"})["id"]
        key = admin.must("POST", f"/admin/environments/{environment}/keys", {"name": "k"})["key"]
        with client(simulation, key=key) as api:
            # A client cannot choose another tenant's.
            raw = api.completions.with_raw_response.create(
                model=simulation.model_name, prompt="x", max_tokens=1, extra_body={"cache_salt": "mine"}
            )
        salts.append(sims.request(raw.headers["x-request-id"])["cache_salt"])
        assert org not in salts[-1], "the node learned the tenant's name"
    assert len({*salts, "mine", ""}) == 4, salts
