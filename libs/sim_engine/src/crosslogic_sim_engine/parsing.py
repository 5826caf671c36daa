"""Requests: from a body's bytes to what is to be generated, refused as vLLM refuses. Pure."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from crosslogic_sim_engine import vocabulary
from crosslogic_sim_engine.errors import ApiError, bad_type, bad_value, too_long, unknown_model

Api = Literal["completions", "chat", "responses", "messages"]
MAX_CHOICES = 16_384
_MAX_TOKENS_NAMES: dict[Api, tuple[str, ...]] = {
    "completions": ("max_tokens",),
    "chat": ("max_completion_tokens", "max_tokens"),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be generated."""

    api: Api
    prompts: list[list[int]]
    n: int
    max_tokens: int
    min_tokens: int
    stops: tuple[str, ...]
    stop_ids: frozenset[int]
    ignore_end: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    return_ids: bool
    echo: bool
    cache_salt: str


def parse_object(body: bytes) -> dict[str, Any]:
    """A body's JSON object; ApiError 400 for anything else."""
    if not body:
        raise bad_type("missing", "", "Field required", None)
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(
            f"1 validation error:\n  {{'type': 'json_invalid', 'loc': 'body.0', 'msg': 'JSON decode error', "
            f"'input': '<dict of 0 items>', 'ctx': {{'error': {str(error)!r}}}}}",
            kind="Bad Request",
            param="body.0",
        ) from None
    if not isinstance(value, dict):
        wanted = "Input should be a valid dictionary or object to extract fields from"
        raise bad_type("model_attributes_type", "", wanted, value)
    return value


def check_model(body: dict[str, Any], served: str) -> None:
    """ApiError 404 when another model is asked for; a missing one means the one served."""
    model = body.get("model")
    if model is None or model == served:
        return
    if not isinstance(model, str):
        raise bad_type("string_type", "model", "Input should be a valid string", model)
    raise unknown_model(model, served=served)


def parse_generation(api: Api, body: dict[str, Any], *, served: str, context_tokens: int) -> GenerationRequest:
    """What a body asks for; ApiError as vLLM would answer."""
    stream = body.get("stream") is True
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise bad_type("model_attributes_type", "stream_options", "Input should be a valid dictionary", options)
    n = _integer(body, "n", 1)
    stops, stop_ids = _stops(api, body)
    salt = body.get("cache_salt")
    _check_ranges(body, n=n)
    max_tokens = _max_tokens(api, body, context_tokens)
    check_model(body, served)
    if options is not None and not stream and api in ("completions", "chat"):
        raise ApiError(
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)", param="stream_options"
        )
    if salt == "":
        raise ApiError(
            "Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)", param="cache_salt"
        )
    prompts = _prompts(api, body)
    longest = max(len(prompt) for prompt in prompts)
    if longest >= context_tokens:
        raise too_long(longest, limit=context_tokens)
    if max_tokens is None:
        max_tokens = 16 if api == "completions" else context_tokens
    min_tokens = _integer(body, "min_tokens", 0)
    if min_tokens > max_tokens:
        raise ApiError(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}.")
    counted = api in ("completions", "chat")
    options = options or {}
    return GenerationRequest(
        api=api,
        prompts=prompts,
        n=n,
        max_tokens=min(max_tokens, context_tokens - longest),
        min_tokens=min_tokens,
        stops=stops,
        stop_ids=stop_ids,
        ignore_end=body.get("ignore_eos") is True,
        stream=stream,
        include_usage=bool(options.get("include_usage")) and counted,
        continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")) and counted,
        return_ids=body.get("return_token_ids") is True and counted,
        echo=body.get("echo") is True and api == "completions",
        cache_salt=salt if isinstance(salt, str) else "",
    )


def _integer(body: dict[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            wanted = "Input should be a valid integer, unable to parse string as an integer"
            raise bad_type("int_parsing", name, wanted, value) from None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise bad_type("int_type", name, "Input should be a valid integer", value)
    return value


def _max_tokens(api: Api, body: dict[str, Any], context_tokens: int) -> int | None:
    for name in _MAX_TOKENS_NAMES[api]:
        if body.get(name) is None:
            continue
        value = _integer(body, name, 0)
        if value < 1:
            raise bad_value(f"{name} must be at least 1, got {value}.", name, value)
        if value > context_tokens:
            message = f"{name}={value} cannot be greater than max_model_len={context_tokens}. "
            raise bad_value(f"{message}Please request fewer output tokens.", name, value)
        return value
    if api == "messages":
        raise bad_type("missing", "max_tokens", "Field required", body)
    return None


def _check_ranges(body: dict[str, Any], *, n: int) -> None:
    temperature = body.get("temperature")
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise bad_type("float_type", name, "Input should be a valid number", value)
    if temperature is not None and temperature < 0:
        raise bad_value(
            f"temperature must be non-negative, got {float(temperature)}.", "temperature", float(temperature)
        )
    top_p = body.get("top_p")
    if top_p is not None and not 0 < top_p <= 1:
        raise bad_value(f"top_p must be in (0, 1], got {float(top_p)}.", "top_p", float(top_p))
    if n < 1:
        raise ApiError(f"n must be at least 1, got {n}.")
    if n > MAX_CHOICES:
        raise ApiError(f"n must be at most {MAX_CHOICES}, got {n}.")
    if n > 1 and temperature == 0:
        raise ApiError(f"n must be 1 when using greedy sampling, got {n}.")


def _stops(api: Api, body: dict[str, Any]) -> tuple[tuple[str, ...], frozenset[int]]:
    name = "stop_sequences" if api == "messages" else "stop"
    stop = body.get(name)
    texts = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise bad_type("list_type", name, "Input should be a valid list", stop)
    return tuple(text for text in texts if text), frozenset(body.get("stop_token_ids") or ())


def _prompts(api: Api, body: dict[str, Any]) -> list[list[int]]:
    if api == "completions":
        return _completion_prompts(body.get("prompt"))
    if api == "responses":
        value = body.get("input")
        messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
        if not isinstance(messages, list):
            raise bad_type("list_type", "input", "Input should be a valid list", value)
        system = body.get("instructions")
    else:
        messages = body.get("messages")
        if not isinstance(messages, list):
            kind = "missing" if messages is None else "list_type"
            raise bad_type(kind, "messages", "Input should be a valid list", messages)
        system = body.get("system")
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    return [chat_ids(messages)]


def chat_ids(messages: Sequence[Any]) -> list[int]:
    """The prompt ids of a conversation."""
    if not messages:
        raise ApiError("Cannot apply chat template to an empty conversation. Provide at least one message.")
    lines = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise bad_type("missing", "messages.0.role", "Field required", message)
        lines.append(f"<|{message['role']}|>\n{_content(message.get('content'))}<|end|>\n")
    return [vocabulary.BOS, *vocabulary.encode("".join(lines) + "<|assistant|>\n")]


def _content(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if any("image_url" in part for part in content):
            raise ApiError("The model is not a multimodal model")
        return "\n".join(str(part.get("text", "")) for part in content)
    raise bad_type("string_type", "messages.0.content", "Input should be a valid string", content)


def _completion_prompts(prompt: Any) -> list[list[int]]:
    if prompt is None or prompt == "":
        message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        raise ApiError(message, param="prompt")
    if isinstance(prompt, str):
        return [[vocabulary.BOS, *vocabulary.encode(prompt)]]
    if not isinstance(prompt, list):
        raise bad_type("list_type", "prompt", "Input should be a valid list", prompt)
    if not prompt:
        raise ApiError("You must pass at least one prompt")
    if isinstance(prompt[0], int):
        return [_checked_ids(prompt)]
    return [
        _checked_ids(each) if isinstance(each, list) else [vocabulary.BOS, *vocabulary.encode(str(each))]
        for each in prompt
    ]


def _checked_ids(ids: list[Any]) -> list[int]:
    if not ids or not all(type(token) is int for token in ids):
        raise bad_type("list_type", "prompt", "Input should be a valid list", ids)
    for token in (min(ids), max(ids)):
        if not vocabulary.is_known(token):
            raise ApiError(f"Token id {token} is out of vocabulary")
    return ids
