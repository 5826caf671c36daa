"""What is sent to the engine: the client's body, decoded once, checked, completed and written anew. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_node_agent.continuation import PATH as CONTINUATION_PATH
from crosslogic_node_agent.continuation import (
    Continuation,
    can_resume,
    continuation_body,
    held_back,
    read_continuation,
)

MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_TIMEOUT_MS = 600_000

PATHS: Final = MappingProxyType(
    {
        pb.ENGINE_API_CHAT_COMPLETIONS: "/v1/chat/completions",
        pb.ENGINE_API_COMPLETIONS: "/v1/completions",
        pb.ENGINE_API_EMBEDDINGS: "/v1/embeddings",
        pb.ENGINE_API_RESPONSES: "/v1/responses",
        pb.ENGINE_API_MESSAGES: "/v1/messages",
    }
)
COUNTED_APIS: Final = frozenset({pb.ENGINE_API_CHAT_COMPLETIONS, pb.ENGINE_API_COMPLETIONS})
"""APIs whose chunks can carry running usage and token ids."""

# Fields that steer the engine rather than the answer: a tenant must not jump the queue, name another's cache, move
# cache blocks or make two requests share an id.
NOT_THE_CLIENTS: Final = (
    "cache_salt",
    "priority",
    "request_id",
    "kv_transfer_params",
    "data_parallel_rank",
    "stream_options",
    "return_token_ids",
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_DECODER = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request as the engine is to get it, and what its answer must hide."""

    path: str
    body: bytes
    request_id: str
    stream: bool
    prompts: int
    choices: int
    """Choices of each prompt, of which each reports its own running count."""
    model: str
    """The name that answers must carry."""
    rename: bool
    """The engine knows the model by another name."""
    return_token_ids: bool = False
    """The client asked for them."""
    template: dict[str, Any] | None = None
    """The engine's own whole answer, whose fields the answer is to have: it is streamed, and put together here."""
    held_back: int | None = None
    """Characters that the engine holds back for stop strings; None: the stream cannot be resumed elsewhere."""
    greedy: bool = False
    """Asked again, the engine generates the same."""
    continuation: Continuation | None = None
    """The stream of another node that goes on here."""
    traceparent: str = ""
    """The span that the engine works for. Empty: the request is not traced."""


class Templates(Protocol):
    """Which whole answers are to be put together from a stream."""

    def template(self, api: int, body: dict[str, Any]) -> dict[str, Any] | None:
        """The engine's answer whose fields are to be used; None: the engine answers whole."""


_LIMIT_NAMES: Final[Mapping[int, tuple[str, ...]]] = MappingProxyType(
    {
        pb.ENGINE_API_CHAT_COMPLETIONS: ("max_tokens", "max_completion_tokens"),
        pb.ENGINE_API_COMPLETIONS: ("max_tokens",),
        pb.ENGINE_API_RESPONSES: ("max_output_tokens",),
        pb.ENGINE_API_MESSAGES: ("max_tokens",),
    }
)
_COMPLETIONS_DEFAULT = 16
"""What engines generate on `/v1/completions` where nothing is said."""


def set_limit(api: int, body: dict[str, Any], max_tokens: int) -> None:
    """Limits an answer whose request names no limit."""
    names = _LIMIT_NAMES.get(api, ())
    if not names or any(body.get(name) is not None for name in names):
        return
    body[names[0]] = min(max_tokens, _COMPLETIONS_DEFAULT) if api == pb.ENGINE_API_COMPLETIONS else max_tokens


def check_open(request: pb.RelayOpen) -> None:
    """Raises INVALID_ARGUMENT for what the contract does not allow."""
    if request.api not in PATHS:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`api` is not an API of the engine.", param="api")
    if len(request.body) > MAX_BODY_BYTES:
        raise CodedError(ErrorCode.REQUEST_TOO_LARGE)
    if not _REQUEST_ID.fullmatch(request.request_id):
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`request_id` must be a UUID.", param="request_id")
    for name, value, least in (
        ("first_byte_timeout_ms", request.first_byte_timeout_ms, 1),
        ("idle_timeout_ms", request.idle_timeout_ms, 1),
        ("whole_timeout_ms", request.whole_timeout_ms, 0),
    ):
        if not least <= value <= MAX_TIMEOUT_MS:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` must be {least} to {MAX_TIMEOUT_MS}.", param=name)


def build_request(request: pb.RelayOpen, *, engine_model: str, templates: Templates | None = None) -> EngineRequest:
    """The engine's request for a call. `engine_model` is the model's name there.

    Raises INVALID_ARGUMENT for a body that is no JSON object, REQUEST_TOO_LARGE.
    """
    check_open(request)
    body = decode_object(request.body)
    for name in NOT_THE_CLIENTS:
        body.pop(name, None)
    body["model"] = engine_model
    if request.cache_salt:
        body["cache_salt"] = request.cache_salt
    if request.max_tokens:
        set_limit(request.api, body, request.max_tokens)
    path = PATHS[request.api]
    resumable = request.stream and can_resume(request.api, body)
    continuation = None
    if request.HasField("resume"):
        if not resumable:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "This request cannot be resumed.", param="resume")
        continuation = read_continuation(request.resume)
        path = CONTINUATION_PATH
        body = continuation_body(request.api, body, request.resume, continuation)
    template = None if request.stream or templates is None else templates.template(request.api, body)
    if request.stream or template is not None:
        body["stream"] = True
        if request.api in COUNTED_APIS:
            body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
            body["return_token_ids"] = True
    else:
        body.pop("stream", None)
        if request.return_token_ids and request.api in COUNTED_APIS:
            body["return_token_ids"] = True
    return EngineRequest(
        path=path,
        body=encode_object(body),
        request_id=request.request_id,
        stream=request.stream,
        prompts=_prompts(body),
        choices=_choices(body),
        model=request.model,
        rename=engine_model != request.model,
        return_token_ids=request.return_token_ids,
        template=template,
        held_back=held_back(body) if resumable else None,
        greedy=body.get("temperature") == 0,
        continuation=continuation,
    )


def decode_object(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises INVALID_ARGUMENT; NaN, infinities and numbers too large for a double are no JSON."""
    try:
        return _DECODER.decode(raw)
    except msgspec.ValidationError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "The request body must be a JSON object.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "The request body is nested too deeply.") from None


def encode_object(body: dict[str, Any]) -> bytes:
    """The body as bytes. Raises INVALID_ARGUMENT for what was readable but cannot be written."""
    try:
        return msgspec.json.encode(body)
    except (OverflowError, RecursionError, UnicodeEncodeError):
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "The request body holds a value that is out of range.") from None


def _choices(body: dict[str, Any]) -> int:
    count = body.get("n")
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 1


def _prompts(body: dict[str, Any]) -> int:
    """How many prompts a completion has: a list of strings or of token lists is a batch; one list of ids is not."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return len(prompt)
    return 1
