"""Answers that do not stream: gathered, read for their counts, and passed on. Pure."""

from typing import Any

import msgspec

from crosslogic_node_agent.domain import CountSource, TokenCount
from crosslogic_node_agent.events import ABORTED


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    choices: list[_Choice] = []  # msgspec copies it for each instance


class AnswerError(Exception):
    """The engine's body is no answer."""


def read_count(body: bytes) -> TokenCount:
    """The usage of a whole answer, in whichever API's words. Raises AnswerError when it is no whole answer."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AnswerError(f"an answer that cannot be read: {error}") from None
    if any(choice.finish_reason == ABORTED for choice in answer.choices):
        raise AnswerError("the engine aborted its answer")
    usage = answer.usage
    if usage is None:
        return TokenCount()
    details = usage.prompt_tokens_details or usage.input_tokens_details
    return TokenCount(
        prompt_tokens=usage.prompt_tokens or usage.input_tokens or 0,
        cached_prompt_tokens=(details.cached_tokens if details else None) or usage.cache_read_input_tokens or 0,
        completion_tokens=usage.completion_tokens or usage.output_tokens or 0,
        source=CountSource.FINAL,
    )


def renamed(body: bytes, model: str) -> bytes:
    """The answer with `model` in place of the engine's own name for it."""
    answer: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    if "model" in answer:
        answer["model"] = model
    return msgspec.json.encode(answer)
