"""A stream cut at any place and continued elsewhere reads as if nothing had happened."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_node_agent.continuation import can_resume, packed, unpacked
from crosslogic_node_agent.engine_request import build_request
from crosslogic_node_agent.events import CANNOT_RESUME, CompletionEvents, EventError
from tests.fakes.node_agent_resume import KeptStream, opened, relay

CHAT, COMPLETIONS = pb.ENGINE_API_CHAT_COMPLETIONS, pb.ENGINE_API_COMPLETIONS
PROMPT = [5, 6, 7]
# A vocabulary of bytes: words, halves of characters, a whole and a half together, and one without any text.
VOCABULARY = (
    b" one", b"two", b"ab", b"b", b"a", b"\n", "é".encode(), b"\xc3", b"\xa9", b"x\xe2", b"\x82", b"\xac y", b"",
    "漢字".encode(), b"END", b"E", b"ND",
)  # fmt: skip


@dataclass
class Engine:
    """Says the tokens it was made with, whatever the prompt, and writes them as vLLM does."""

    tokens: Sequence[int]
    prompt: int = len(PROMPT)
    per_chunk: Sequence[int] = (1,)
    chat: bool = True
    name: str = "chatcmpl-first"
    asked: list[dict[str, Any]] = field(default_factory=list)

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[bytes]:
        """The chunks of the answer; a prompt of ids goes on after those of them that were generated."""
        chat = path == "/v1/chat/completions"
        self.asked.append(body)
        done = len(body["prompt"]) - self.prompt if isinstance(body.get("prompt"), list) else 0
        stops = body.get("stop") or []
        hold = max((len(stop) for stop in stops), default=1) - 1
        limit = body["max_tokens"]
        pieces = _Detokenizer()
        text, sent, taken = "", 0, 0
        if chat:
            yield self._chunk({"delta": {"role": "assistant", "content": ""}}, 0, chat=chat, prompt=done + self.prompt)
        sizes = (size for _ in range(10_000) for size in self.per_chunk)
        while True:
            ids: list[int] = []
            ending = None
            for _ in range(next(sizes)):
                token = self.tokens[done + taken]
                ids.append(token)
                taken += 1
                text += pieces.take(VOCABULARY[token])
                found = [(text.find(stop), stop) for stop in stops if stop in text[max(sent - hold, 0) :]]
                if found:
                    text, ending = text[: min(found)[0]], "stop"
                elif taken >= limit:
                    ending = "length"
                if ending:
                    break
            end = len(text) if ending else max(len(text) - hold, sent)
            choice: dict[str, Any] = {"finish_reason": ending, "token_ids": ids}
            choice |= {"delta": {"content": text[sent:end]}} if chat else {"text": text[sent:end]}
            first = self.prompt + done if taken == len(ids) and not chat else 0
            yield self._chunk(choice, taken, chat=chat, prompt=first)
            sent = end
            if ending:
                break
        usage = {"prompt_tokens": self.prompt + done, "total_tokens": 0, "completion_tokens": taken}
        last = {"id": self.name, "created": 17, "model": "engine", "choices": [], "usage": usage}
        yield b"data: %b\n\n" % msgspec.json.encode(last)
        yield b"data: [DONE]\n\n"

    def _chunk(self, choice: dict[str, Any], taken: int, *, chat: bool, prompt: int) -> bytes:
        body: dict[str, Any] = {
            "id": self.name,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": 17,
            "model": "engine",
            "choices": [{"index": 0, **choice}],
            "usage": {"prompt_tokens": self.prompt, "total_tokens": 0, "completion_tokens": taken},
        }
        if prompt:
            ids = [*PROMPT, *range(prompt - len(PROMPT))]
            (body if chat else body["choices"][0])["prompt_token_ids"] = ids
        return b"data: %b\n\n" % msgspec.json.encode(body)


class _Detokenizer:
    """Gives text once the bytes so far end with a whole character."""

    def __init__(self) -> None:
        self._held = b""

    def take(self, piece: bytes) -> str:
        self._held += piece
        if not piece:
            return ""
        text = self._held.decode("utf-8", "replace")
        if text.endswith("�"):
            return ""
        self._held = b""
        return text


def whole(engine: Engine, api: int, body: dict[str, Any]) -> KeptStream:
    kept = KeptStream()
    assert relay(engine.stream, api, body, kept)
    return kept


BODIES: dict[int, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}], "temperature": 0},
    COMPLETIONS: {"prompt": "hi", "temperature": 0},
}
STOPS = st.sampled_from([[], ["\n"], ["END"], ["ab\n", "é"], ["one two", "END"]])
TOKENS = st.lists(st.integers(0, len(VOCABULARY) - 1), min_size=45, max_size=45)


@settings(max_examples=300, deadline=None)
@given(
    tokens=TOKENS,
    stops=STOPS,
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=2),
    per_chunk=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    api=st.sampled_from([CHAT, COMPLETIONS]),
    ids=st.booleans(),
)
def test_a_stream_cut_anywhere_and_resumed_reads_as_the_undisturbed_one(
    tokens: list[int], stops: list[str], cuts: list[int], per_chunk: list[int], api: int, ids: bool
) -> None:
    body = BODIES[api] | {"max_tokens": 40, "stop": stops, "return_token_ids": ids}
    undisturbed = whole(Engine(tokens, per_chunk=per_chunk), api, body)

    client = KeptStream()
    ended = relay(Engine(tokens, per_chunk=per_chunk).stream, api, body, client, chunks=cuts[0])
    for number, cut in enumerate([*cuts[1:], None]):
        if not ended and client.opening:
            engine = Engine(tokens, per_chunk=per_chunk, name=f"cmpl-{number}")
            ended = relay(engine.stream, api, body, client, chunks=cut, resumed=True)
    if not client.opening:
        return  # cut before its first token: asked anew from the start
    assert ended
    assert client.text == undisturbed.text
    assert client.completion_tokens == undisturbed.completion_tokens
    assert client.events[-1]["usage"]["completion_tokens"] == undisturbed.completion_tokens
    assert client.events[-1]["usage"]["prompt_tokens"] == len(PROMPT)
    assert {(each["id"], each["created"], each["model"]) for each in client.events} == {
        ("chatcmpl-first", 17, "catalogue")
    }
    assert client.data.endswith(b"data: [DONE]\n\n")
    assert client.data.count(b"[DONE]") == 1
    choices = [event["choices"][0] for event in client.events if event["choices"]]
    assert sum("role" in choice.get("delta", {}) for choice in choices) == (api == CHAT)
    assert [choice["finish_reason"] for choice in choices if choice.get("finish_reason")] == [
        choice["choices"][0]["finish_reason"]
        for choice in undisturbed.events
        if choice["choices"] and choice["choices"][0].get("finish_reason")
    ]
    if ids:
        assert [token for choice in choices for token in choice.get("token_ids") or ()] == tokens[
            : undisturbed.completion_tokens
        ]


def test_less_is_left_to_generate_and_the_prompt_is_the_ids() -> None:
    engine = Engine([0] * 30)
    body = BODIES[CHAT] | {"max_completion_tokens": 20, "max_tokens": 20, "min_tokens": 8, "user": "kept"}
    client = KeptStream()
    relay(engine.stream, CHAT, body, client, chunks=6)
    relay(engine.stream, CHAT, body, client, resumed=True)
    asked = engine.asked[-1]
    assert asked["prompt"] == [*PROMPT, 0, 0, 0, 0, 0]
    assert (asked["max_tokens"], asked["min_tokens"], asked["user"]) == (15, 3, "kept")
    assert asked["temperature"] == 0
    assert not {"messages", "max_completion_tokens", "n", "tools"} & set(asked)


def test_a_limit_that_the_client_left_out_is_the_rest_of_the_context() -> None:
    client = KeptStream()
    engine = Engine([0] * 5000)
    open_chat = build_request(opened(CHAT, BODIES[CHAT] | {"max_tokens": 9}), engine_model="engine")
    assert msgspec.json.decode(open_chat.body)["max_tokens"] == 9
    relay(engine.stream, CHAT, BODIES[CHAT] | {"max_tokens": 9}, client, chunks=4)
    request = opened(CHAT, BODIES[CHAT], client.resume())
    assert msgspec.json.decode(build_request(request, engine_model="engine").body)["max_tokens"] == 4096 - 3 - 3
    request = opened(COMPLETIONS, BODIES[COMPLETIONS], client.resume())
    assert msgspec.json.decode(build_request(request, engine_model="engine").body)["max_tokens"] == 16 - 3


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"functions": [{"name": "f"}]},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        {"guided_json": {}},
        {"structured_outputs": {"json": {}}},
        {"logprobs": True},
        {"logprobs": 0},
        {"top_logprobs": 2},
        {"prompt_logprobs": 1},
        {"n": 2},
        {"best_of": 2},
        {"echo": True},
        {"stop": ["END"], "include_stop_str_in_output": True},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    ],
)
def test_what_ids_do_not_bring_back_is_never_resumed(more: dict[str, Any]) -> None:
    assert not can_resume(CHAT, BODIES[CHAT] | more)
    request = build_request(opened(CHAT, BODIES[CHAT] | more), engine_model="engine")
    assert request.held_back is None
    with pytest.raises(CodedError) as caught:
        build_request(
            opened(CHAT, BODIES[CHAT] | more, pb.RelayResume(stream_opening=b"{}", prompt_ids=bytes(4))),
            engine_model="engine",
        )
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "more",
    [
        {"n": 1, "best_of": None, "logprobs": False, "tools": [], "response_format": {"type": "text"}},
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {"role": "tool", "content": None},
            ]
        },
        {"stop": "\n", "include_stop_str_in_output": True},
    ],
)
def test_what_is_only_said_to_be_the_default_is_resumed(more: dict[str, Any]) -> None:
    assert can_resume(CHAT, BODIES[CHAT] | more)


def test_streams_of_other_apis_and_of_several_prompts_are_not_resumed() -> None:
    assert not can_resume(pb.ENGINE_API_MESSAGES, {"messages": []})
    assert not can_resume(pb.ENGINE_API_RESPONSES, {"input": "x"})
    assert not can_resume(COMPLETIONS, {"prompt": ["a", "b"]})
    assert can_resume(COMPLETIONS, {"prompt": [1, 2]})


def test_reasoning_that_a_parser_reads_out_of_the_text_ends_the_chance_to_resume() -> None:
    request = build_request(opened(CHAT, BODIES[CHAT]), engine_model="engine")
    events = CompletionEvents(request, include_usage=False, continuous_usage=False, return_token_ids=False)

    def chunk(delta: dict[str, str]) -> bytes:
        body = {"id": "x", "choices": [{"index": 0, "delta": delta, "token_ids": [1]}], "prompt_token_ids": [1]}
        return b"data: %b\n\n" % msgspec.json.encode(body)

    (first,) = events.feed(chunk({"content": "a"}))
    assert first.unsettled_tokens == 0
    (second,) = events.feed(chunk({"reasoning_content": "hm"}))
    assert second.unsettled_tokens == CANNOT_RESUME
    (third,) = events.feed(chunk({"content": "b"}))
    assert third.unsettled_tokens == CANNOT_RESUME


def test_an_answer_drawn_anew_that_differs_from_what_was_sent_is_an_error_and_not_a_garbled_text() -> None:
    body = BODIES[CHAT] | {"max_tokens": 30, "stop": ["ENDING OF A."]}
    client = KeptStream()
    relay(Engine([0] * 40).stream, CHAT, body, client, chunks=8)
    assert client.unsettled_text
    with pytest.raises(EventError):
        relay(Engine([1] * 40).stream, CHAT, body, client, resumed=True)


@pytest.mark.parametrize(
    "change",
    [
        {"stream_opening": b"[]"},
        {"stream_opening": b"nonsense"},
        {"stream_opening": b'{"id":"%b"}' % (b"x" * 5000)},
        {"prompt_ids": b""},
        {"prompt_ids": b"abc"},
        {"token_ids": b"abcde"},
        {"unsettled_tokens": 100},
        {"context_length": 0},
    ],
)
def test_a_resume_that_no_node_said_is_refused(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "stream_opening": b'{"id":"x"}',
        "prompt_ids": packed([1]),
        "token_ids": packed([2, 3]),
        "context_length": 100,
    }
    build_request(opened(CHAT, BODIES[CHAT], pb.RelayResume(**good)), engine_model="engine")
    with pytest.raises(CodedError) as caught:
        build_request(opened(CHAT, BODIES[CHAT], pb.RelayResume(**good | change)), engine_model="engine")
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


@given(ids=st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_ids_survive_the_wire(ids: list[int]) -> None:
    assert unpacked(packed(ids)) == ids
