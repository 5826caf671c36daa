"""The suite's errors: one code each, and the one mapping to gRPC status, HTTP status and OpenAI error bodies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import grpc
import grpc.aio
import msgspec

from crosslogic.common.v1 import common_pb2 as common_pb

CODE_METADATA = "crosslogic-code"
RETRY_AFTER_METADATA = "crosslogic-retry-after-ms"
PARAM_METADATA = "crosslogic-param"
MAX_PUBLIC_BYTES = 1024
MAX_RETRY_AFTER_S = 86_400.0
_MAX_PARAM_CHARS = 128
_MAX_RETRY_DIGITS = 10


class ErrorCode(StrEnum):
    """What went wrong, in words that every service shares."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    CONFLICT = "CONFLICT"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    INVALID_API_KEY = "INVALID_API_KEY"
    TENANT_SUSPENDED = "TENANT_SUSPENDED"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    CONTEXT_LENGTH_EXCEEDED = "CONTEXT_LENGTH_EXCEEDED"
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    OVERLOADED = "OVERLOADED"
    NO_CAPACITY = "NO_CAPACITY"
    ENGINE_ERROR = "ENGINE_ERROR"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    NODE_DRAINING = "NODE_DRAINING"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    UNAVAILABLE = "UNAVAILABLE"
    JOIN_TOKEN_INVALID = "JOIN_TOKEN_INVALID"  # noqa: S105  # the name of an error, not a token
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """How one code is told to callers."""

    grpc_status: grpc.StatusCode
    http_status: int
    openai_type: str
    openai_code: str
    message: str
    """What the caller reads where the raiser gave no better sentence."""

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed a little later, with nothing changed by the caller.

        The HTTP API says so in `x-should-retry`, which OpenAI's clients obey before their own rule (that rule retries
        409, which is pointless here).
        """
        return self.http_status in _RETRYABLE_HTTP


_RETRYABLE_HTTP = frozenset({408, 429, 500, 502, 503, 504})
_S = grpc.StatusCode
_INVALID = "invalid_request_error"
_SERVER = "server_error"

CATALOGUE: Mapping[ErrorCode, ErrorRow] = MappingProxyType(
    {
        ErrorCode.INVALID_ARGUMENT: ErrorRow(
            _S.INVALID_ARGUMENT, 400, _INVALID, "invalid_request", "The request is not valid."
        ),
        ErrorCode.NOT_FOUND: ErrorRow(_S.NOT_FOUND, 404, _INVALID, "not_found", "There is no such thing."),
        ErrorCode.ALREADY_EXISTS: ErrorRow(_S.ALREADY_EXISTS, 409, _INVALID, "already_exists", "It exists already."),
        ErrorCode.CONFLICT: ErrorRow(
            _S.FAILED_PRECONDITION, 409, _INVALID, "conflict", "Its present state does not allow this."
        ),
        ErrorCode.PERMISSION_DENIED: ErrorRow(
            _S.PERMISSION_DENIED, 403, "permission_error", "permission_denied", "You may not do this."
        ),
        ErrorCode.UNAUTHENTICATED: ErrorRow(
            _S.UNAUTHENTICATED, 401, "authentication_error", "unauthenticated", "Say who you are."
        ),
        ErrorCode.INVALID_API_KEY: ErrorRow(
            _S.UNAUTHENTICATED,
            401,
            "authentication_error",
            "invalid_api_key",
            "Incorrect API key provided. Send a valid key as `Authorization: Bearer clsk_...`.",
        ),
        ErrorCode.TENANT_SUSPENDED: ErrorRow(
            _S.PERMISSION_DENIED, 403, "permission_error", "tenant_suspended", "This account is suspended."
        ),
        ErrorCode.MODEL_NOT_FOUND: ErrorRow(
            _S.NOT_FOUND, 404, _INVALID, "model_not_found", "The model does not exist or you do not have access to it."
        ),
        ErrorCode.CONTEXT_LENGTH_EXCEEDED: ErrorRow(
            _S.INVALID_ARGUMENT,
            400,
            _INVALID,
            "context_length_exceeded",
            "The request is longer than the model's context.",
        ),
        ErrorCode.REQUEST_TOO_LARGE: ErrorRow(
            _S.RESOURCE_EXHAUSTED, 413, _INVALID, "request_too_large", "The request body is larger than 10 MB."
        ),
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: ErrorRow(
            _S.INVALID_ARGUMENT,
            415,
            _INVALID,
            "unsupported_media_type",
            "Send the body as JSON with `Content-Type: application/json`.",
        ),
        ErrorCode.METHOD_NOT_ALLOWED: ErrorRow(
            _S.UNIMPLEMENTED, 405, _INVALID, "method_not_allowed", "This path does not take that method."
        ),
        ErrorCode.REQUEST_TIMEOUT: ErrorRow(
            _S.DEADLINE_EXCEEDED, 408, _INVALID, "request_timeout", "The request did not arrive in time."
        ),
        ErrorCode.NOT_SUPPORTED: ErrorRow(
            _S.UNIMPLEMENTED, 404, _INVALID, "not_supported", "The model does not offer this API."
        ),
        ErrorCode.RATE_LIMITED: ErrorRow(
            _S.RESOURCE_EXHAUSTED, 429, "rate_limit_error", "rate_limit_exceeded", "Too many requests: slow down."
        ),
        ErrorCode.QUOTA_EXCEEDED: ErrorRow(
            _S.RESOURCE_EXHAUSTED,
            403,
            "insufficient_quota",
            "quota_exceeded",
            "The quota is used up: wait until it is free again, or ask for a larger one.",
        ),
        ErrorCode.BUDGET_EXCEEDED: ErrorRow(
            _S.RESOURCE_EXHAUSTED,
            402,
            "insufficient_quota",
            "budget_exceeded",
            "The budget does not cover this request: raise it, or wait until it starts anew.",
        ),
        ErrorCode.OVERLOADED: ErrorRow(
            _S.RESOURCE_EXHAUSTED,
            429,
            "overloaded_error",
            "overloaded",
            "The service is overloaded: try again shortly.",
        ),
        ErrorCode.NO_CAPACITY: ErrorRow(
            _S.UNAVAILABLE,
            503,
            _SERVER,
            "no_capacity",
            "No machine can take this request right now: try again shortly.",
        ),
        ErrorCode.ENGINE_ERROR: ErrorRow(
            _S.INTERNAL, 502, _SERVER, "engine_error", "The model failed to answer: try again."
        ),
        ErrorCode.ENGINE_UNAVAILABLE: ErrorRow(
            _S.UNAVAILABLE, 503, _SERVER, "engine_unavailable", "The model is not reachable right now: try again."
        ),
        ErrorCode.NODE_DRAINING: ErrorRow(
            _S.UNAVAILABLE, 503, _SERVER, "node_draining", "The machine is about to leave: try again."
        ),
        ErrorCode.TIMEOUT: ErrorRow(
            _S.DEADLINE_EXCEEDED, 504, _SERVER, "timeout", "The answer did not come in time: try again."
        ),
        ErrorCode.CANCELLED: ErrorRow(_S.CANCELLED, 499, _INVALID, "cancelled", "The request was cancelled."),
        ErrorCode.UNAVAILABLE: ErrorRow(
            _S.UNAVAILABLE, 503, _SERVER, "unavailable", "The service is not available right now: try again shortly."
        ),
        ErrorCode.JOIN_TOKEN_INVALID: ErrorRow(
            _S.UNAUTHENTICATED,
            401,
            "authentication_error",
            "join_token_invalid",
            "The join token is unknown, used or expired: ask an operator for a new one.",
        ),
        ErrorCode.INTERNAL: ErrorRow(
            _S.INTERNAL, 500, _SERVER, "internal_error", "Something went wrong on our side: try again."
        ),
    }
)


class CodedError(Exception):
    """The one exception that domain code raises."""

    def __init__(
        self,
        code: ErrorCode,
        public: str = "",
        *,
        private: str = "",
        retry_after_s: float | None = None,
        param: str | None = None,
    ) -> None:
        """`public` is for the caller and names nothing internal; `private` is for the log only.

        `retry_after_s` is advice in seconds, kept within 0 to a day; `param` is the request's field at fault. What does
        not fit the wire is made to fit here, so that telling an error can never fail: `public` is cut at 1,024 bytes of
        UTF-8, and a `param` that is not printable ASCII is left out.
        """
        self.code = code
        self.public = _wire_text(public or CATALOGUE[code].message)
        self.private = private
        self.retry_after_s = _wire_seconds(retry_after_s)
        self.param = _wire_param(param)
        super().__init__(f"{code}: {self.public}" + (f" ({private})" if private else ""))


def _wire_text(text: str) -> str:
    encoded = text.encode("utf-8", "replace")[:MAX_PUBLIC_BYTES]
    return encoded.decode("utf-8", "ignore")


def _wire_seconds(seconds: float | None) -> float | None:
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _wire_param(param: str | None) -> str | None:
    if not param or not param.isascii() or not param.isprintable():
        return None
    return param[:_MAX_PARAM_CHARS]


def grpc_status(error: CodedError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    return CATALOGUE[error.code].grpc_status


def http_status(error: CodedError) -> int:
    """The HTTP status of an error."""
    return CATALOGUE[error.code].http_status


def to_openai_body(error: CodedError, request_id: str) -> bytes:
    """An error body as OpenAI's clients read it, with the request's id for the support desk."""
    row = CATALOGUE[error.code]
    return msgspec.json.encode(
        {
            "error": {
                "message": error.public,
                "type": row.openai_type,
                "param": error.param,
                "code": row.openai_code,
                "request_id": request_id,
            }
        }
    )


def to_metadata(error: CodedError) -> tuple[tuple[str, str], ...]:
    """Trailing metadata that carries the error's code next to its gRPC status."""
    metadata = [(CODE_METADATA, str(error.code))]
    if error.retry_after_s is not None:
        metadata.append((RETRY_AFTER_METADATA, str(round(error.retry_after_s * 1000))))
    if error.param:
        metadata.append((PARAM_METADATA, error.param))
    return tuple(metadata)


def describe_catalogue() -> str:
    """The catalogue as a Markdown table, by HTTP status."""
    rows = ["| code | HTTP | gRPC | `type` | `code` in the body | retry | message |", "|---|---|---|---|---|---|---|"]
    for code, row in sorted(CATALOGUE.items(), key=lambda item: (item[1].http_status, item[0])):
        retry = "yes" if row.retryable else "no"
        rows.append(
            f"| `{code}` | {row.http_status} | {row.grpc_status.name} | `{row.openai_type}` | `{row.openai_code}` "
            f"| {retry} | {row.message} |"
        )
    return "\n".join(rows)


_BY_STATUS: Mapping[grpc.StatusCode, ErrorCode] = MappingProxyType(
    {
        _S.INVALID_ARGUMENT: ErrorCode.INVALID_ARGUMENT,
        _S.OUT_OF_RANGE: ErrorCode.INVALID_ARGUMENT,
        _S.NOT_FOUND: ErrorCode.NOT_FOUND,
        _S.ALREADY_EXISTS: ErrorCode.ALREADY_EXISTS,
        _S.FAILED_PRECONDITION: ErrorCode.CONFLICT,
        _S.ABORTED: ErrorCode.CONFLICT,
        _S.PERMISSION_DENIED: ErrorCode.PERMISSION_DENIED,
        _S.UNAUTHENTICATED: ErrorCode.UNAUTHENTICATED,
        _S.RESOURCE_EXHAUSTED: ErrorCode.OVERLOADED,
        _S.DEADLINE_EXCEEDED: ErrorCode.TIMEOUT,
        _S.CANCELLED: ErrorCode.UNAVAILABLE,
        _S.UNAVAILABLE: ErrorCode.UNAVAILABLE,
    }
)


def from_rpc_error(error: grpc.aio.AioRpcError) -> CodedError:
    """What a failed RPC says. Without our metadata the status decides, and its text stays private."""
    metadata = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    sent = metadata.get(CODE_METADATA)
    if sent is None or sent not in ErrorCode.__members__:
        code = _BY_STATUS.get(error.code(), ErrorCode.INTERNAL)
        return CodedError(code, private=f"{error.code().name}: {error.details()}")
    return CodedError(
        ErrorCode(sent),
        error.details() or "",
        retry_after_s=_seconds(metadata.get(RETRY_AFTER_METADATA)),
        param=metadata.get(PARAM_METADATA),
    )


def _seconds(millis: str | None) -> float | None:
    # The peer may be a node, which is not trusted: no number is too long to read.
    if millis is None or not (millis.isascii() and millis.isdecimal()) or len(millis) > _MAX_RETRY_DIGITS:
        return None
    return int(millis) / 1000


def to_call_error(error: CodedError) -> common_pb.CallError:
    """The error of one call inside a batched stream."""
    return common_pb.CallError(
        code=error.code,
        message=error.public,
        retry_after_ms=round((error.retry_after_s or 0) * 1000),
        param=error.param or "",
    )


def from_call_error(error: common_pb.CallError) -> CodedError:
    """What a failed call inside a batched stream says."""
    code = ErrorCode(error.code) if error.code in ErrorCode.__members__ else ErrorCode.INTERNAL
    return CodedError(
        code,
        error.message,
        retry_after_s=error.retry_after_ms / 1000 if error.retry_after_ms else None,
        param=error.param or None,
    )
