"""What a client's body may make the engine do."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError
from crosslogic_node_agent.engine_request import EngineRequest, build_request

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
STEERING = ("priority", "request_id", "kv_transfer_params", "cache_salt", "data_parallel_rank")


def opened(body: bytes, **fields: Any) -> pb.RelayOpen:
    given: dict[str, Any] = {
        "api": pb.ENGINE_API_COMPLETIONS,
        "model": "m",
        "request_id": "0198c0de-0000-7000-8000-000000000000",
        "first_byte_timeout_ms": 1000,
        "idle_timeout_ms": 1000,
    }
    return pb.RelayOpen(body=body, **(given | fields))


def attempt(request: pb.RelayOpen) -> tuple[EngineRequest | None, str]:
    """The built request, or the code of its refusal."""
    try:
        return build_request(request, engine_model="engine"), ""
    except CodedError as error:
        return None, error.code


@given(body=st.dictionaries(st.text(max_size=8) | st.sampled_from(STEERING), VALUES, max_size=6), stream=st.booleans())
def test_whatever_a_client_sends_the_engine_gets_plain_json_that_steers_nothing(
    body: dict[str, Any], stream: bool
) -> None:
    built, code = attempt(opened(json.dumps(body).encode(), stream=stream))
    if built is None:
        assert code == "INVALID_ARGUMENT"
        return
    sent = msgspec.json.decode(built.body)
    assert sent["model"] == "engine"
    assert not set(STEERING) & set(sent)
    assert sent.get("stream", False) is stream
    kept = set(body) - {*STEERING, "model", "stream", "stream_options", "return_token_ids"}
    assert kept <= set(sent)


@given(raw=st.binary(max_size=200))
def test_bytes_that_are_no_json_object_are_refused_with_a_code(raw: bytes) -> None:
    assert attempt(opened(raw))[1] in ("", "INVALID_ARGUMENT")


@pytest.mark.parametrize("raw", [b'{"a":' * 100_000, b"[" * 100_000, b'{"a": 1' + b"0" * 5000 + b"}"])
def test_a_body_that_is_made_to_hurt_is_refused(raw: bytes) -> None:
    with pytest.raises(CodedError, match="INVALID_ARGUMENT"):
        build_request(opened(raw), engine_model="engine")


def test_the_last_of_two_same_keys_is_the_only_one_that_the_engine_sees() -> None:
    built = build_request(opened(b'{"max_tokens": 1, "max_tokens": 2}'), engine_model="engine")
    assert built.body.count(b"max_tokens") == 1


def test_streams_ask_for_counts_and_ids_and_whole_answers_do_not() -> None:
    body = b'{"stream_options": {"include_usage": false}, "return_token_ids": true}'
    streamed = msgspec.json.decode(build_request(opened(body, stream=True), engine_model="e").body)
    assert streamed["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert streamed["return_token_ids"] is True
    whole = msgspec.json.decode(build_request(opened(body), engine_model="e").body)
    assert "stream_options" not in whole
    messages = opened(body, stream=True, api=pb.ENGINE_API_MESSAGES)
    assert "stream_options" not in msgspec.json.decode(build_request(messages, engine_model="e").body)


@pytest.mark.parametrize(
    ("prompt", "n", "expected"),
    [
        ("a", None, (1, 1)),
        (["a", "b"], 2, (2, 2)),
        ([1, 2, 3], None, (1, 1)),
        ([[1], [2]], 3, (2, 3)),
        ([], "x", (1, 1)),
    ],
)
def test_the_shape_of_a_batch_is_known_for_its_running_counts(prompt: Any, n: Any, expected: tuple[int, int]) -> None:
    built = build_request(opened(json.dumps({"prompt": prompt, "n": n}).encode()), engine_model="e")
    assert (built.prompts, built.choices) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"api": 0},
        {"api": 99},
        {"request_id": ""},
        {"request_id": "a b"},
        {"first_byte_timeout_ms": 0},
        {"idle_timeout_ms": 600_001},
        {"whole_timeout_ms": 600_001},
    ],
)
def test_an_open_outside_the_contract_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CodedError, match="INVALID_ARGUMENT"):
        build_request(opened(b"{}", **fields), engine_model="engine")


@pytest.mark.parametrize(
    ("api", "sent", "limit"),
    [
        (pb.ENGINE_API_CHAT_COMPLETIONS, {"messages": []}, {"max_tokens": 100}),
        (pb.ENGINE_API_CHAT_COMPLETIONS, {"messages": [], "max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        (pb.ENGINE_API_CHAT_COMPLETIONS, {"messages": [], "max_tokens": None}, {"max_tokens": 100}),
        (pb.ENGINE_API_COMPLETIONS, {"prompt": "a"}, {"max_tokens": 16}),
        (pb.ENGINE_API_RESPONSES, {"input": "a"}, {"max_output_tokens": 100}),
        (pb.ENGINE_API_EMBEDDINGS, {"input": "a"}, {}),
    ],
)
def test_an_answer_whose_request_names_no_limit_ends_at_the_environments(
    api: int, sent: dict[str, Any], limit: dict[str, int]
) -> None:
    built, refused = attempt(opened(json.dumps(sent).encode(), api=api, max_tokens=100))
    assert built is not None, refused
    body = json.loads(built.body)
    assert {name: value for name, value in body.items() if name.startswith("max_")} == limit
