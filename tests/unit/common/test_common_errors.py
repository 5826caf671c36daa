"""Errors: every code has its row, OpenAI's client maps each to its exception, and telling an error never fails."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic.common.v1 import common_pb2 as pb
from crosslogic_common.errors import (
    CATALOGUE,
    CodedError,
    ErrorCode,
    describe_catalogue,
    from_call_error,
    from_rpc_error,
    grpc_status,
    http_status,
    to_call_error,
    to_metadata,
    to_openai_body,
)

CODES = st.sampled_from(list(ErrorCode))
EXCEPTIONS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}


def rpc_error(
    status: grpc.StatusCode, details: str | None, metadata: tuple[tuple[str, str | bytes], ...]
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(status, grpc.aio.Metadata(), cast("Any", grpc.aio.Metadata(*metadata)), details=details)


def test_every_code_has_its_row_and_every_row_its_sentence() -> None:
    assert set(CATALOGUE) == set(ErrorCode)
    for code, row in CATALOGUE.items():
        assert code == code.name
        assert 400 <= row.http_status < 600
        assert row.message.endswith(".")
        assert row.grpc_status is not grpc.StatusCode.OK
    openai_codes = [row.openai_code for row in CATALOGUE.values()]
    assert len(openai_codes) == len(set(openai_codes))


def test_catalogue_cannot_be_changed_by_a_service() -> None:
    with pytest.raises(TypeError):
        CATALOGUE[ErrorCode.INTERNAL] = CATALOGUE[ErrorCode.TIMEOUT]  # type: ignore[index]


@pytest.mark.parametrize("code", list(ErrorCode))
def test_openai_client_raises_its_own_exception_and_reads_code_and_param(code: ErrorCode) -> None:
    error = CodedError(code, param="model")

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            http_status(error), content=to_openai_body(error, "req-1"), headers={"content-type": "application/json"}
        )

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        client = openai.OpenAI(
            api_key="x", base_url="http://suite.test/v1", http_client=cast("Any", http), max_retries=0
        )
        with pytest.raises(openai.APIStatusError) as caught:
            client.models.list()
    assert type(caught.value) is EXCEPTIONS.get(http_status(error), openai.APIStatusError)
    assert caught.value.code == CATALOGUE[code].openai_code
    assert caught.value.type == CATALOGUE[code].openai_type
    assert caught.value.param == "model"
    assert CATALOGUE[code].message in str(caught.value)


def test_private_text_reaches_no_caller() -> None:
    error = CodedError(ErrorCode.UNAVAILABLE, private="node 10.0.0.7 of org Umbrella")
    told = to_openai_body(error, "req-1") + repr(to_metadata(error)).encode() + to_call_error(error).SerializeToString()
    assert b"Umbrella" not in told
    assert "Umbrella" in str(error)


@given(CODES, st.text(max_size=3000), st.floats(), st.text(max_size=300))
def test_telling_an_error_never_fails_whatever_a_client_put_into_it(
    code: ErrorCode, public: str, retry_after_s: float, param: str
) -> None:
    error = CodedError(code, public + "\ud800", retry_after_s=retry_after_s, param=param)
    assert len(error.public.encode()) <= 1024
    assert json.loads(to_openai_body(error, "r"))["error"]["message"] == error.public
    for key, value in to_metadata(error):
        assert key.islower()
        assert value.isascii()
        assert value.isprintable()
    assert to_call_error(error).retry_after_ms <= 86_400_000


@given(CODES, st.text(min_size=1, max_size=200), st.none() | st.integers(1, 60_000), st.sampled_from([None, "model"]))
def test_error_comes_out_of_a_stream_and_of_an_rpc_as_it_went_in(
    code: ErrorCode, public: str, retry_ms: int | None, param: str | None
) -> None:
    error = CodedError(code, public, retry_after_s=None if retry_ms is None else retry_ms / 1000, param=param)
    streamed = from_call_error(pb.CallError.FromString(to_call_error(error).SerializeToString()))
    unary = from_rpc_error(rpc_error(grpc_status(error), error.public, to_metadata(error)))
    for told in (streamed, unary):
        assert (told.code, told.public, told.param) == (error.code, error.public, error.param)
        assert told.retry_after_s == pytest.approx(error.retry_after_s) if retry_ms else told.retry_after_s is None


@pytest.mark.parametrize(
    "metadata",
    [
        (("crosslogic-code", "NOT_A_CODE"),),
        (("crosslogic-code", ""),),
        (("crosslogic-code-bin", b"\xff"),),
        (),
    ],
)
def test_peer_that_sends_no_code_of_ours_is_judged_by_its_status_and_its_text_stays_private(
    metadata: tuple[tuple[str, str | bytes], ...],
) -> None:
    told = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "connect to 10.0.0.7:50051 failed", metadata))
    assert told.code is ErrorCode.UNAVAILABLE
    assert "10.0.0.7" not in told.public
    assert "10.0.0.7" in told.private


@pytest.mark.parametrize("millis", ["9" * 5000, "-1", "1e9", "٣", "", "nan"])
def test_lying_node_cannot_break_its_caller_with_a_number(millis: str) -> None:
    metadata = (("crosslogic-code", "OVERLOADED"), ("crosslogic-retry-after-ms", millis))
    assert from_rpc_error(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "x", metadata)).retry_after_s is None


def test_unknown_code_in_a_stream_is_internal() -> None:
    assert from_call_error(pb.CallError(code="FROM_THE_FUTURE", message="m")).code is ErrorCode.INTERNAL


@pytest.mark.parametrize("status", list(grpc.StatusCode))
def test_every_grpc_status_of_a_stranger_becomes_a_code(status: grpc.StatusCode) -> None:
    error = SimpleNamespace(code=lambda: status, details=lambda: None, trailing_metadata=lambda: None)
    assert from_rpc_error(cast("Any", error)).code in CATALOGUE


def test_client_is_not_told_to_repeat_what_cannot_succeed() -> None:
    assert {code for code, row in CATALOGUE.items() if row.retryable} == {
        ErrorCode.REQUEST_TIMEOUT,
        ErrorCode.RATE_LIMITED,
        ErrorCode.OVERLOADED,
        ErrorCode.NO_CAPACITY,
        ErrorCode.ENGINE_ERROR,
        ErrorCode.ENGINE_UNAVAILABLE,
        ErrorCode.NODE_DRAINING,
        ErrorCode.TIMEOUT,
        ErrorCode.UNAVAILABLE,
        ErrorCode.INTERNAL,
    }


def test_documented_errors_are_the_catalogue() -> None:
    page = (Path(__file__).parents[3] / "docs" / "errors.md").read_text(encoding="utf-8")
    assert describe_catalogue() in page
