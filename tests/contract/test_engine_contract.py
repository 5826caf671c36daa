"""What the node agent relies on, asked of the simulated engine and of real vLLM alike (docs/engine-behaviour.md)."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.contract.engine_fixtures import COUNTED, MESSAGES, PROMPT, Caller, choice_ids
from tests.fakes.engine_server import RunningEngine

GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="session", params=["simulated", "real_vllm"])
def engine(request: pytest.FixtureRequest) -> RunningEngine:
    running: RunningEngine = request.getfixturevalue(request.param)
    return running


@pytest.fixture
def caller(engine: RunningEngine) -> Iterator[Caller]:
    caller = Caller(engine)
    yield caller
    caller.http.close()


# --- streams


def test_a_completion_stream_shows_the_prompts_ids_once_and_counts_every_token(caller: Caller) -> None:
    chunks = caller.chunks("/v1/completions", {"prompt": PROMPT, "max_tokens": 5, **GREEDY, **COUNTED})
    *tokens, usage = chunks
    first = tokens[0]["choices"][0]
    assert first["prompt_token_ids"] == caller.ids(PROMPT, 1)[0]
    assert all(chunk["choices"][0]["prompt_token_ids"] is None for chunk in tokens[1:])
    prompt_tokens = len(first["prompt_token_ids"])
    seen = 0
    for chunk in tokens:
        assert chunk["object"] == "text_completion"
        assert chunk["model"] == caller.engine.model
        seen += len(chunk["choices"][0]["token_ids"])
        assert chunk["usage"]["completion_tokens"] == seen
        assert chunk["usage"]["prompt_tokens"] == prompt_tokens
    assert [chunk["choices"][0]["finish_reason"] for chunk in tokens] == [None] * (len(tokens) - 1) + ["length"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == seen == 5
    assert usage["usage"]["total_tokens"] == prompt_tokens + 5


def test_a_chat_stream_begins_with_the_role_and_the_prompts_ids(caller: Caller) -> None:
    chunks = caller.chunks("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 4, **GREEDY, **COUNTED})
    role, *tokens, usage = chunks
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert role["usage"]["completion_tokens"] == 0
    assert len(role["prompt_token_ids"]) == role["usage"]["prompt_tokens"]
    assert all("prompt_token_ids" not in chunk for chunk in tokens)
    assert len(choice_ids(chunks)) == 4
    assert tokens[-1]["choices"][0]["finish_reason"] == "length"
    assert tokens[-1]["usage"]["completion_tokens"] == usage["usage"]["completion_tokens"] == 4
    assert usage["choices"] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", {"prompt": PROMPT}), ("/v1/chat/completions", {"messages": MESSAGES})],
)
def test_a_stream_shows_no_count_and_no_ids_to_who_did_not_ask(caller: Caller, path: str, body: dict[str, Any]) -> None:
    chunks = caller.chunks(path, {**body, "max_tokens": 3, **GREEDY, "stream": True})
    assert all("usage" not in chunk for chunk in chunks)
    assert all(choice.get("token_ids") is None for chunk in chunks for choice in chunk["choices"])
    assert all(chunk["choices"] for chunk in chunks), "no usage chunk"


def test_each_choice_counts_for_itself_and_only_the_last_chunk_has_the_sum(caller: Caller) -> None:
    body = {"prompt": ["the big", "river"], "n": 2, "max_tokens": 3, "temperature": 1.0, "ignore_eos": True, **COUNTED}
    *tokens, usage = caller.chunks("/v1/completions", body)
    prompts = {}
    for index in range(4):
        mine = [chunk for chunk in tokens if chunk["choices"][0]["index"] == index]
        prompts[index] = len(mine[0]["choices"][0]["prompt_token_ids"])
        assert mine[-1]["usage"]["completion_tokens"] == 3
        assert mine[-1]["usage"]["prompt_tokens"] == prompts[index]
    assert prompts[0] == prompts[1]
    assert usage["usage"]["completion_tokens"] == 12
    assert usage["usage"]["prompt_tokens"] == prompts[0] + prompts[2]


def test_the_text_of_a_stream_is_that_of_the_whole_answer(caller: Caller) -> None:
    body = {"messages": MESSAGES, "max_tokens": 12, **GREEDY}
    whole = caller.post("/v1/chat/completions", {**body, "return_token_ids": True})
    chunks = caller.chunks("/v1/chat/completions", {**body, **COUNTED})
    text = "".join(choice["delta"]["content"] for chunk in chunks for choice in chunk["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert choice_ids(chunks) == whole["choices"][0]["token_ids"]
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert whole["usage"]["completion_tokens"] == 12


def test_a_text_is_printable(caller: Caller) -> None:
    text = caller.ids(PROMPT, 40)[2]
    assert text.isascii()
    assert text.isprintable()
    assert len(text.split()) >= 20


# --- resuming


def test_a_stream_resumed_from_its_ids_goes_on_with_the_same_ids(caller: Caller) -> None:
    prompt, ids, _ = caller.ids("once upon a time", 60)
    for done in (1, 7, 30, 59):
        resumed_prompt, resumed, _ = caller.ids(prompt + ids[:done], 60 - done)
        assert resumed_prompt == prompt + ids[:done], "no start token is added to ids"
        assert resumed == ids[done:]


def test_a_chat_resumed_as_a_completion_goes_on_with_the_same_ids(caller: Caller) -> None:
    body = {"messages": MESSAGES, "max_tokens": 30, **GREEDY, "return_token_ids": True}
    whole = caller.post("/v1/chat/completions", body)
    ids = whole["choices"][0]["token_ids"]
    _, resumed, _ = caller.ids(whole["prompt_token_ids"] + ids[:11], 19)
    assert resumed == ids[11:]


# --- ends


def test_a_stop_string_is_cut_off_and_its_tokens_are_counted(caller: Caller) -> None:
    _, ids, text = caller.ids(PROMPT, 8)
    words = text.split(" ")
    stop = f"{words[3][1:]} {words[4][:2]}"
    body = {"prompt": PROMPT, "max_tokens": 8, **GREEDY, "stop": [stop], **COUNTED}
    chunks = caller.chunks("/v1/completions", body)
    streamed = "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"])
    assert streamed == text[: text.index(stop)]
    last = chunks[-2]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", stop)
    shown = choice_ids(chunks)
    assert shown == ids[: len(shown)]
    assert chunks[-1]["usage"]["completion_tokens"] == len(shown)


def test_text_is_held_back_where_a_stop_string_may_have_begun(caller: Caller) -> None:
    body = {"prompt": PROMPT, "max_tokens": 6, **GREEDY, "stop": ["never said"], **COUNTED}
    chunks = caller.chunks("/v1/completions", body)
    _, ids, text = caller.ids(PROMPT, 6)
    *early, last, _usage = chunks
    shown = "".join(chunk["choices"][0]["text"] for chunk in early)
    assert len(shown) <= len(text) - (len("never said") - 1)
    assert shown + last["choices"][0]["text"] == text
    assert choice_ids(chunks) == ids


def test_a_stop_id_ends_the_text_and_is_counted(caller: Caller) -> None:
    _, ids, _ = caller.ids(PROMPT, 6)
    at = next(place for place in range(2, 6) if ids[place] not in ids[:place])
    body = {"prompt": PROMPT, "max_tokens": 6, **GREEDY, "stop_token_ids": [ids[at]], "return_token_ids": True}
    answer = caller.post("/v1/completions", body)
    choice = answer["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", ids[at])
    assert choice["token_ids"] == ids[: at + 1]
    assert answer["usage"]["completion_tokens"] == at + 1


def test_an_answer_is_cut_at_the_context_when_prompt_and_max_tokens_exceed_it_together(caller: Caller) -> None:
    limit = caller.engine.context_tokens
    prompt = (caller.ids(PROMPT, 1)[0][1:2] * limit)[: limit - 10]
    answer = caller.post("/v1/completions", {"prompt": prompt, "max_tokens": 500, **GREEDY})
    assert answer["usage"] == answer["usage"] | {"prompt_tokens": limit - 10, "completion_tokens": 10}
    assert answer["choices"][0]["finish_reason"] == "length"


# --- other APIs


def test_responses_tell_usage_in_their_last_event_only(caller: Caller) -> None:
    body = {"input": PROMPT, "max_output_tokens": 5, "temperature": 0, "cache_salt": "org"}
    whole = caller.post("/v1/responses", body)
    events = caller.events("/v1/responses", {**body, "stream": True})
    names = [name for name, _ in events]
    assert names[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert names[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(names[4:-4]) == {"response.output_text.delta"}
    last = json.loads(events[-1][1])["response"]
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"] == 5
    assert last["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert last["status"] == whole["status"] == "incomplete"
    assert json.loads(events[0][1])["response"]["usage"] is None


def test_messages_tell_the_prompt_first_and_the_answer_last(caller: Caller) -> None:
    body = {"messages": MESSAGES, "max_tokens": 5, "temperature": 0}
    whole = caller.post("/v1/messages", body)
    events = [(name, json.loads(data)) for name, data in caller.events("/v1/messages", {**body, "stream": True})]
    names = [name for name, _ in events]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0][1]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert events[-2][1]["usage"]["output_tokens"] == whole["usage"]["output_tokens"] == 5
    assert events[-2][1]["delta"]["stop_reason"] == whole["stop_reason"] == "max_tokens"
    text = "".join(event["delta"]["text"] for name, event in events if name == "content_block_delta")
    assert text == whole["content"][0]["text"]


def test_the_engine_names_its_model_and_context(caller: Caller) -> None:
    (model,) = caller.http.get("/v1/models").json()["data"]
    assert model["id"] == caller.engine.model
    assert model["max_model_len"] == caller.engine.context_tokens
    assert caller.http.get("/health").status_code == 200
    assert caller.http.get("/version").json()["version"]


def test_a_request_id_becomes_part_of_the_answers(caller: Caller) -> None:
    body = {"model": caller.engine.model, "prompt": PROMPT, "max_tokens": 1}
    answer = caller.http.post("/v1/completions", json=body, headers={"X-Request-Id": "mine-1"})
    assert answer.json()["id"] == "cmpl-mine-1"


def test_tokenize_counts_as_generation_does(caller: Caller) -> None:
    counted = caller.post("/tokenize", {"prompt": PROMPT})
    assert counted["tokens"] == caller.ids(PROMPT, 1)[0]
    assert counted["count"] == len(counted["tokens"])
    chat = caller.post("/tokenize", {"messages": MESSAGES})
    assert (
        chat["count"]
        == caller.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1})["usage"]["prompt_tokens"]
    )


# --- refusals


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param"),
    [
        ("/v1/completions", {"model": "nope", "prompt": "x"}, 404, "NotFoundError", "model"),
        ("/v1/chat/completions", {"model": "nope", "messages": MESSAGES}, 404, "NotFoundError", "model"),
        ("/v1/responses", {"model": "nope", "input": "x"}, 404, "NotFoundError", "model"),
        ("/v1/completions", {"prompt": "the " * 9000}, 400, "BadRequestError", "input_tokens"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 5000}, 400, "BadRequestError", "max_tokens"),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 5000}, 400, "BadRequestError", "max_tokens"),
        (
            "/v1/chat/completions",
            {"messages": MESSAGES, "max_tokens": 5000, "stream": True},
            400,
            "BadRequestError",
            "max_tokens",
        ),
        ("/v1/responses", {"input": "x", "max_output_tokens": 5000}, 400, "BadRequestError", "max_output_tokens"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 0}, 400, "BadRequestError", "max_tokens"),
        ("/v1/completions", {"prompt": "x", "max_tokens": "abc"}, 400, "Bad Request", "body.max_tokens"),
        ("/v1/completions", {"prompt": {"a": 1}}, 400, "Bad Request", "body.prompt"),
        ("/v1/completions", {}, 400, "BadRequestError", "prompt"),
        ("/v1/completions", {"prompt": ""}, 400, "BadRequestError", "prompt"),
        ("/v1/completions", {"prompt": [5_000_000_000]}, 400, "BadRequestError", None),
        ("/v1/chat/completions", {"messages": []}, 400, "BadRequestError", None),
        ("/v1/chat/completions", {"messages": "x"}, 400, "Bad Request", "body.messages"),
        (
            "/v1/chat/completions",
            {"messages": MESSAGES, "stream_options": {"include_usage": True}},
            400,
            "BadRequestError",
            "stream_options",
        ),
        ("/v1/completions", {"prompt": "x", "cache_salt": ""}, 400, "BadRequestError", "cache_salt"),
        ("/v1/completions", {"prompt": "x", "temperature": -1}, 400, "BadRequestError", "temperature"),
        ("/v1/completions", {"prompt": "x", "top_p": 2}, 400, "BadRequestError", "top_p"),
        ("/v1/completions", {"prompt": "x", "n": 2, "temperature": 0}, 400, "BadRequestError", None),
        ("/v1/completions", {"prompt": "x", "max_tokens": 2, "min_tokens": 5}, 400, "BadRequestError", None),
        ("/v1/messages", {"messages": MESSAGES}, 400, "Bad Request", "body.max_tokens"),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(
    caller: Caller, path: str, body: dict[str, Any], status: int, kind: str, param: str | None
) -> None:
    answer = caller.http.post(path, json={"model": caller.engine.model, **body})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (kind, param, status)
    assert isinstance(error["message"], str)
    assert error["message"]


@pytest.mark.parametrize("body", [b'{"model":', b"[1]", b'"x"', b""])
def test_a_body_that_is_no_json_object_is_refused(caller: Caller, body: bytes) -> None:
    answer = caller.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "Bad Request"


def test_another_content_type_is_refused(caller: Caller) -> None:
    body = json.dumps({"model": caller.engine.model, "prompt": "x"}).encode()
    answer = caller.http.post("/v1/completions", content=body, headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


def test_the_messages_api_has_errors_of_its_own_shape(caller: Caller) -> None:
    answer = caller.http.post("/v1/messages", json={"model": "nope", "messages": MESSAGES, "max_tokens": 1})
    assert answer.status_code == 404
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "NotFoundError"


def test_unknown_paths_and_methods_are_no_openai_errors(caller: Caller) -> None:
    assert caller.http.post("/nope", json={}).json() == {"detail": "Not Found"}
    assert caller.http.get("/v1/completions").status_code == 405


# --- disconnects and metrics


def test_a_client_that_leaves_a_stream_stops_its_generation(caller: Caller) -> None:
    engine = caller.engine
    engine.wait_idle()
    before = engine.metrics()["generation_tokens_total"]
    body = {"model": engine.model, "prompt": "leave", "max_tokens": 4000, **GREEDY, **COUNTED}
    seen = 0
    with caller.http.stream("POST", "/v1/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                seen = json.loads(line[6:])["usage"]["completion_tokens"]
            if seen >= 50:
                break
    engine.wait_idle()
    generated = engine.metrics()["generation_tokens_total"] - before
    assert seen <= generated < 3900, "it ran to its 4,000 tokens"


def test_a_client_that_leaves_before_a_whole_answer_stops_its_generation(caller: Caller) -> None:
    engine = caller.engine
    engine.wait_idle()
    before = engine.metrics()["generation_tokens_total"]
    body = {"model": engine.model, "prompt": "leave", "max_tokens": 4000, **GREEDY}
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.post(f"{engine.base_url}/v1/completions", json=body, timeout=0.7, trust_env=False)
    engine.wait_idle()
    assert engine.metrics()["generation_tokens_total"] - before < 3900


def test_the_metrics_show_load_while_it_lasts(caller: Caller) -> None:
    engine = caller.engine
    engine.wait_idle()
    before = engine.metrics()
    work = {"prompt": "work", "max_tokens": 1000, **GREEDY}
    threads = [threading.Thread(target=lambda: caller.post("/v1/completions", work)) for _ in range(3)]
    for thread in threads:
        thread.start()
    busiest = 0.0
    cache = 0.0
    until = time.monotonic() + 60
    while any(thread.is_alive() for thread in threads):
        now = engine.metrics()
        busiest = max(busiest, now["num_requests_running"])
        cache = max(cache, now["kv_cache_usage_perc"])
        assert time.monotonic() < until
        time.sleep(0.02)
    after = engine.metrics()
    assert busiest >= 2
    assert 0 < cache <= 1
    assert after["generation_tokens_total"] - before["generation_tokens_total"] == 3000
    assert after["prompt_tokens_total"] - before["prompt_tokens_total"] == 3 * len(caller.ids("work", 1)[0])


# --- the official client


def test_the_official_client_reads_answers_streams_and_errors(caller: Caller) -> None:
    engine = caller.engine
    http = httpx.Client(trust_env=False)
    with openai.OpenAI(
        base_url=f"{engine.base_url}/v1",
        api_key="none",
        max_retries=0,
        http_client=http,  # type: ignore[arg-type]  # it takes either of two httpx packages
    ) as client:
        whole = client.chat.completions.create(model=engine.model, messages=MESSAGES, max_tokens=5, temperature=0)  # type: ignore[arg-type]
        stream = client.chat.completions.create(  # type: ignore[call-overload]
            model=engine.model,
            messages=MESSAGES,
            max_tokens=5,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage.completion_tokens == 5
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nope", messages=MESSAGES)  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model=engine.model, prompt="x", max_tokens=5000)
