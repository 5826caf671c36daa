"""What an endpoint of somebody else's is sent: what OpenAI's API has and no more, and nothing of the tenant's. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_node_agent.engine_request import (
    NOT_THE_CLIENTS,
    PATHS,
    EngineRequest,
    check_open,
    decode_object,
    encode_object,
    set_limit,
)
from crosslogic_node_agent.external.terms import ExternalTerms, StreamUsage

APIS: Final = (pb.ENGINE_API_CHAT_COMPLETIONS, pb.ENGINE_API_COMPLETIONS, pb.ENGINE_API_EMBEDDINGS)
"""The others keep state at the endpoint, in an account that all tenants share."""
_VERSION: Final = "/v1"
_MAX_NAME_CHARS = 100

_SAMPLING: Final = frozenset(
    {"frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty", "seed", "stop", "stream"}
    | {"temperature", "top_p", "model"}
)
_FIELDS: Final[Mapping[int, frozenset[str]]] = MappingProxyType(
    {
        pb.ENGINE_API_CHAT_COMPLETIONS: _SAMPLING
        | {"messages", "max_completion_tokens", "top_logprobs", "response_format", "reasoning_effort", "verbosity"}
        | {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"},
        pb.ENGINE_API_COMPLETIONS: _SAMPLING | {"prompt", "best_of", "echo", "suffix"},
        pb.ENGINE_API_EMBEDDINGS: frozenset({"model", "input", "encoding_format", "dimensions"}),
    }
)
_LEFT_OUT: Final = frozenset(NOT_THE_CLIENTS) | {
    # Who asks: the tenant's business and nobody else's.
    *("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    # What steers the operator's account there: what is kept, and what is paid for haste.
    *("store", "service_tier"),
}


def external_request(opened: pb.RelayOpen, *, terms: ExternalTerms) -> EngineRequest:
    """The endpoint's request for a call.

    Raises NOT_SUPPORTED for other APIs than `APIS`, INVALID_ARGUMENT for a body that is no JSON object or has a field
    that the endpoint does not take, OVERLOADED for a stream that is to go on from token ids.
    """
    check_open(opened)
    if opened.api not in APIS:
        raise CodedError(ErrorCode.NOT_SUPPORTED)
    if opened.HasField("resume"):
        # Not the client's fault, and no fault of this node: another one may be able to.
        raise CodedError(ErrorCode.OVERLOADED, private="an external endpoint cannot go on with another node's stream")
    body = _asked(opened, terms)
    if opened.stream:
        body["stream"] = True
        if terms.usage is not StreamUsage.OFF:
            body["stream_options"] = {"include_usage": True}
        if terms.usage is StreamUsage.CONTINUOUS:
            body["stream_options"]["continuous_usage_stats"] = True
    else:
        body.pop("stream", None)
    return EngineRequest(
        path=terms.url.base_path + PATHS[opened.api].removeprefix(_VERSION),
        body=encode_object(body),
        request_id=opened.request_id,
        stream=opened.stream,
        prompts=1,
        choices=1,
        model=opened.model,
        rename=True,
    )


def _asked(opened: pb.RelayOpen, terms: ExternalTerms) -> dict[str, Any]:
    """The client's body without what is not for the endpoint."""
    allowed = _FIELDS[opened.api]
    body: dict[str, Any] = {}
    for name, value in decode_object(opened.body).items():
        if value is None or name in _LEFT_OUT:
            continue
        if name not in allowed and name not in terms.more_fields:
            # Left out it would change the answer unseen.
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT, f"This model does not offer `{name[:_MAX_NAME_CHARS]}`.", param=name
            )
        body[name] = value
    body["model"] = terms.model
    _refuse_files(body.get("messages"))
    if opened.max_tokens:
        set_limit(opened.api, body, opened.max_tokens)
    if opened.api == pb.ENGINE_API_CHAT_COMPLETIONS:
        limits = [body.pop(name, None) for name in ("max_completion_tokens", "max_tokens")]
        said = next((limit for limit in limits if limit is not None), None)
        if said is not None:
            body[terms.limit_field] = said
    return body


def _refuse_files(messages: Any) -> None:
    """Files that were uploaded to the operator's account there are no tenant's. Raises INVALID_ARGUMENT."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            file = part.get("file") if isinstance(part, dict) else None
            if isinstance(file, dict) and "file_id" in file:
                raise CodedError(ErrorCode.INVALID_ARGUMENT, "This model does not offer `file_id`.", param="messages")
