"""An engine's error reaches the client without a trace of the machine."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.errors import CodedError, ErrorCode, http_status, to_openai_body
from crosslogic_gateway.engine_errors import MAX_MESSAGE_CHARS, client_error, error_event, hide_internals


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"error": {"message": "bad temperature", "param": "temperature"}}, ErrorCode.INVALID_ARGUMENT),
        (400, {"message": "This model's maximum context length is 10"}, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (404, {"error": {"message": "not here"}}, ErrorCode.NOT_SUPPORTED),
        (422, {"error": "plain"}, ErrorCode.INVALID_ARGUMENT),
        (429, {}, ErrorCode.OVERLOADED),
        (503, {}, ErrorCode.OVERLOADED),
        (500, {"error": {"message": "Traceback: /opt/secret"}}, ErrorCode.ENGINE_ERROR),
    ],
)
def test_each_engine_status_has_one_meaning_for_clients(status: int, body: object, code: ErrorCode) -> None:
    error = client_error(status, json.dumps(body).encode())
    assert error.code == code
    assert "secret" not in error.public


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach http://10.0.0.7:8000/v1",
        "cannot reach 10.0.0.7:8000",
        "refused by localhost:9000",
        "node 0197f0c0-0000-7000-8000-000000000001 failed",
        "No such file /home/someone/models/llama",
    ],
)
def test_addresses_ids_and_paths_are_taken_out(text: str) -> None:
    hidden = hide_internals(text)
    for secret in ("10.0.0.7", "localhost:9000", "0197f0c0", "someone"):
        assert secret not in hidden


def test_ordinary_words_stay() -> None:
    text = "temperature must be in [0, 2], got 7 (see /v1/models)."
    assert hide_internals(text) == text


@given(status=st.integers(400, 599), body=st.binary(max_size=300))
def test_any_body_of_any_status_becomes_an_error_of_bounded_length(status: int, body: bytes) -> None:
    error = client_error(status, body)
    assert 400 <= http_status(error) < 600
    assert len(error.public) <= MAX_MESSAGE_CHARS


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
def test_a_stream_that_ends_badly_says_so_in_the_words_of_its_api(path: str) -> None:
    raw = error_event(CodedError(ErrorCode.ENGINE_ERROR), "id", to_openai_body, path).decode()
    *name, data, end, rest = raw.split("\n")
    assert (end, rest) == ("", "")
    event = json.loads(data.removeprefix("data: "))
    assert event["error"]["message"]
    assert event["error"]["request_id"] == "id"
    if path in ("/v1/messages", "/v1/responses"):
        assert name == ["event: error"]
        assert event["type"] == "error"
        assert ("code" in event) == (path == "/v1/responses")
    else:
        assert name == []
        assert set(event) == {"error"}
