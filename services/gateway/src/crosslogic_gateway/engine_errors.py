"""What an engine's error becomes for the client: the same fault, no trace of the machine. Pure."""

import re
from collections.abc import Callable

import msgspec

from crosslogic_common.errors import CodedError, ErrorCode

MAX_MESSAGE_CHARS = 1000

_HIDDEN: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(?:https?|grpc|unix|tcp)://\S+", re.IGNORECASE), "(address)"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "(address)"),
    (re.compile(r"\blocalhost(?::\d+)?\b", re.IGNORECASE), "(address)"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "(id)"),
    (re.compile(r"(?<![\w/])(?:/[\w.+-]+){3,}"), "(path)"),
)
_RESPONSES = "/v1/responses"
_TYPED_PATHS = frozenset({_RESPONSES, "/v1/messages"})
_TOO_LONG = re.compile(r"context length|maximum model length|max_model_len|longer than the maximum", re.IGNORECASE)


class _Fault(msgspec.Struct):
    message: str | None = None
    param: str | None = None


class _Nested(msgspec.Struct):
    error: _Fault | str | None = None
    message: str | None = None
    detail: object = None


def client_error(status: int, body: bytes) -> CodedError:
    """The error that a client is told of when its engine answered `status` (400 to 599) with `body`."""
    if status in (400, 413, 422):
        fault = _fault(body)
        message = hide_internals(fault.message or "The engine refused the request.")
        code = ErrorCode.CONTEXT_LENGTH_EXCEEDED if _TOO_LONG.search(message) else ErrorCode.INVALID_ARGUMENT
        return CodedError(code, message, param=fault.param)
    if status in (404, 405, 501):
        return CodedError(ErrorCode.NOT_SUPPORTED, "The model does not offer this API.")
    if status in (429, 503):
        return CodedError(ErrorCode.OVERLOADED, private=f"the engine answered {status}", retry_after_s=1.0)
    return CodedError(ErrorCode.ENGINE_ERROR, private=f"the engine answered {status}: {body[:200]!r}")


def hide_internals(message: str) -> str:
    """`message` without addresses, paths and ids, cut to a length that fits a log line."""
    for pattern, stand_in in _HIDDEN:
        message = pattern.sub(stand_in, message)
    return message if len(message) <= MAX_MESSAGE_CHARS else message[: MAX_MESSAGE_CHARS - 1] + "…"


def error_event(
    error: CodedError, request_id: str, to_body: Callable[[CodedError, str], bytes], path: str = ""
) -> bytes:
    """A server-sent event that ends a stream which cannot go on, as clients of the API at `path` read it."""
    body = to_body(error, request_id)
    if path not in _TYPED_PATHS:
        return b"data: " + body + b"\n\n"
    fault: dict[str, object] = msgspec.json.decode(body, type=dict[str, dict[str, object]])["error"]
    event: dict[str, object] = {"type": "error", "error": fault}
    if path == _RESPONSES:
        event |= {name: fault.get(name) for name in ("code", "message", "param")}
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _fault(body: bytes) -> _Fault:
    try:
        nested = msgspec.json.decode(body, type=_Nested)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Fault()
    if isinstance(nested.error, _Fault):
        return nested.error
    if isinstance(nested.error, str):
        return _Fault(message=nested.error)
    return _Fault(message=nested.message)
