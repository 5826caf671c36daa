"""What the gateway reads of a client's JSON body, and what it refuses before any node is asked. Pure.

The body is decoded once, into the few fields that admission, picking and accounting need. Everything else is the
engine's to judge: the agent decodes the same bytes, writes them anew and the engine validates them.
"""

import msgspec

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.domain import Model

MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_CHOICES = 128


class StreamOptions(msgspec.Struct):
    """`stream_options` of a request."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Common(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    return_token_ids: bool | None = None


class _Chat(_Common, kw_only=True):
    messages: list[msgspec.Raw]


class _Completion(_Common, kw_only=True):
    prompt: str | list[msgspec.Raw]


class _Input(_Common, kw_only=True):
    input: str | list[msgspec.Raw]


class InferenceBody(msgspec.Struct, frozen=True, gc=False):
    """A request as far as the gateway reads it. A Struct: a frozen dataclass costs 2 µs more to make."""

    model: str
    stream: bool
    include_usage: bool
    continuous_usage: bool
    return_token_ids: bool
    max_tokens: int | None
    """The most it may generate for one choice, where the client said so."""
    choices: int
    inputs: int
    """Prompts or texts in the one request, each with a context of its own."""


_DECODERS: dict[int, msgspec.json.Decoder[_Common]] = {
    agent_pb.ENGINE_API_CHAT_COMPLETIONS: msgspec.json.Decoder(_Chat),
    agent_pb.ENGINE_API_COMPLETIONS: msgspec.json.Decoder(_Completion),
    agent_pb.ENGINE_API_EMBEDDINGS: msgspec.json.Decoder(_Input),
    agent_pb.ENGINE_API_RESPONSES: msgspec.json.Decoder(_Input),
    agent_pb.ENGINE_API_MESSAGES: msgspec.json.Decoder(_Chat),
}
# Embeddings never stream, and the Messages API counts in its own events.
_CANNOT_STREAM = frozenset({agent_pb.ENGINE_API_EMBEDDINGS})


def parse_body(api: int, raw: bytes) -> InferenceBody:
    """Reads a request body. Raises INVALID_ARGUMENT naming the field at fault and what it must be."""
    try:
        body = _DECODERS[api].decode(raw)
    except msgspec.ValidationError as error:
        raise _wrong_shape(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "The request body is nested too deeply.") from None
    stream = bool(body.stream)
    if stream and api in _CANNOT_STREAM:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "This API does not stream: leave `stream` out.", param="stream")
    options = body.stream_options
    if options is not None and not stream:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`stream_options` needs `stream: true`.", param="stream_options")
    return InferenceBody(
        model=body.model,
        stream=stream,
        include_usage=options is not None and bool(options.include_usage),
        continuous_usage=options is not None and bool(options.continuous_usage_stats),
        return_token_ids=bool(body.return_token_ids),
        max_tokens=_one_limit(body),
        choices=_choices(body),
        inputs=_inputs(body),
    )


def check_against_model(body: InferenceBody, model: Model) -> None:
    """Raises CONTEXT_LENGTH_EXCEEDED when no prompt at all could leave room for what is asked."""
    if body.max_tokens is not None and body.max_tokens > model.context_length:
        raise CodedError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"This model's maximum context length is {model.context_length} tokens, but {body.max_tokens} were "
            "asked for the answer alone. Ask for fewer.",
            param="max_tokens",
        )


def _one_limit(body: _Common) -> int | None:
    """The limit on generated tokens, whichever name it came under. Two names that disagree are refused."""
    if body.max_completion_tokens is None and body.max_output_tokens is None:
        if body.max_tokens is None or 0 <= body.max_tokens < 2**31:
            return body.max_tokens
        limits = {"max_tokens": body.max_tokens}
    else:
        limits = {
            name: value
            for name, value in (
                ("max_tokens", body.max_tokens),
                ("max_completion_tokens", body.max_completion_tokens),
                ("max_output_tokens", body.max_output_tokens),
            )
            if value is not None
        }
    for name, value in limits.items():
        if not 0 <= value < 2**31:
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT, f"`{name}` must be between 0 and {2**31 - 1}, not {value}.", param=name
            )
    if len(set(limits.values())) > 1:
        names = " and ".join(f"`{name}`" for name in limits)
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"{names} disagree: send one of them.", param=next(iter(limits)))
    return next(iter(limits.values()))


def _choices(body: _Common) -> int:
    if body.n is None and body.best_of is None:
        return 1
    choices = 1
    for name, value in (("n", body.n), ("best_of", body.best_of)):
        if value is None:
            continue
        if not 1 <= value <= MAX_CHOICES:
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT, f"`{name}` must be between 1 and {MAX_CHOICES}, not {value}.", param=name
            )
        choices = max(choices, value)
    return choices


def _inputs(body: _Common) -> int:
    """How many prompts a request holds: a list of texts or of token lists is one each, a list of token ids is one."""
    given = body.prompt if isinstance(body, _Completion) else body.input if isinstance(body, _Input) else ""
    if isinstance(given, str) or not given:
        return 1
    return len(given) if bytes(given[0])[:1] in (b'"', b"[", b"{") else 1


def _wrong_shape(error: msgspec.ValidationError) -> CodedError:
    """Turns "Expected `str`, got `int` - at `$.model`" into a sentence that names the field as the client wrote it."""
    text = str(error)
    what, _, where = text.partition(" - at `$")
    field = where.rstrip("`").lstrip(".")
    if not field and "missing required field" in text:
        field = text.split("`")[1]
        return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` is required.", param=field)
    if not field:
        return CodedError(ErrorCode.INVALID_ARGUMENT, f"The request body must be a JSON object. {what}.")
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}`: {what[:1].lower()}{what[1:]}.", param=field)
