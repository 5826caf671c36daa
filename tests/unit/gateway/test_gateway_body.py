"""What the gateway refuses before any node is asked: each with a sentence that names the field."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.body import check_against_model, parse_body
from crosslogic_gateway.domain import Model

CHAT = agent_pb.ENGINE_API_CHAT_COMPLETIONS
GOOD = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
MODEL = Model("m", "llama", 2048, 1, 1, frozenset(), 0)


def refused(body: bytes, api: int = CHAT) -> CodedError:
    with pytest.raises(CodedError) as caught:
        parse_body(api, body)
    return caught.value


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": 5}, "model"),
        ({"messages": "hi"}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 10_000}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], param: str) -> None:
    error = refused(json.dumps({**GOOD, **change}).encode())
    assert error.code == ErrorCode.INVALID_ARGUMENT
    assert error.param == param
    assert f"`{param}`" in error.public


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(field: str) -> None:
    error = refused(json.dumps({name: value for name, value in GOOD.items() if name != field}).encode())
    assert error.param == field
    assert "required" in error.public


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nope", b"[1]", b"null", b'"x"', b"\xff\xfe", b'{"model": "m", "messages": [NaN]}', b"[" * 100_000],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refused(body).code == ErrorCode.INVALID_ARGUMENT


@given(st.binary(max_size=200))
def test_nonsense_never_does_worse_than_a_refusal(body: bytes) -> None:
    for api in (CHAT, agent_pb.ENGINE_API_COMPLETIONS, agent_pb.ENGINE_API_EMBEDDINGS):
        with contextlib.suppress(CodedError):
            assert parse_body(api, body).choices >= 1


def test_what_the_client_asked_to_see_is_kept_apart_from_what_accounting_needs() -> None:
    asked = parse_body(
        CHAT, json.dumps({**GOOD, "stream": True, "stream_options": {"include_usage": True}, "n": 2}).encode()
    )
    assert (asked.stream, asked.include_usage, asked.continuous_usage, asked.choices) == (True, True, False, 2)
    plain = parse_body(CHAT, json.dumps(GOOD).encode())
    assert (plain.stream, plain.include_usage, plain.max_tokens) == (False, False, None)


def test_an_answer_longer_than_the_context_is_refused_without_a_node() -> None:
    body = parse_body(CHAT, json.dumps({**GOOD, "max_tokens": 2049}).encode())
    with pytest.raises(CodedError) as caught:
        check_against_model(body, MODEL)
    assert caught.value.code == ErrorCode.CONTEXT_LENGTH_EXCEEDED
    assert "2048" in caught.value.public
    check_against_model(parse_body(CHAT, json.dumps({**GOOD, "max_tokens": 2048}).encode()), MODEL)


def test_embeddings_do_not_stream() -> None:
    body = json.dumps({"model": "m", "input": "x", "stream": True}).encode()
    assert refused(body, agent_pb.ENGINE_API_EMBEDDINGS).param == "stream"


@pytest.mark.parametrize(
    ("prompt", "inputs"),
    [("x", 1), ([1, 2, 3], 1), (["a", "b", "c"], 3), ([[1, 2], [3]], 2), ([], 1)],
)
def test_each_prompt_of_a_list_has_a_context_of_its_own(prompt: object, inputs: int) -> None:
    body = json.dumps({"model": "m", "prompt": prompt}).encode()
    assert parse_body(agent_pb.ENGINE_API_COMPLETIONS, body).inputs == inputs
