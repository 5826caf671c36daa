"""Which streams can go on at another node, and what that node's engine is asked then. Pure."""

import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode

PATH: Final = "/v1/completions"
MAX_OPENING_BYTES: Final = 4096
ID_BYTES: Final = 4
DEFAULT_COMPLETION_TOKENS: Final = 16
"""What vLLM generates for completions that do not say."""

# State of the engine that token ids do not bring back, or parts of a chunk that would have to be counted on.
_LOST: Final = (
    "best_of",
    "echo",
    "functions",
    "logprobs",
    "n",
    "prompt_embeds",
    "prompt_logprobs",
    "structured_outputs",
    "suffix",
    "tools",
    "top_logprobs",
    "use_beam_search",
)
_PLAIN: Final[dict[str, Any]] = {"n": 1, "best_of": 1, "tools": [], "functions": [], "suffix": ""}
# What makes a prompt of a conversation or of a text, and is in the prompt's ids.
_OF_THE_PROMPT: Final = (
    "add_generation_prompt",
    "add_special_tokens",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "echo",
    "function_call",
    "functions",
    "include_reasoning",
    "logprobs",
    "max_completion_tokens",
    "messages",
    "mm_processor_kwargs",
    "parallel_tool_calls",
    "reasoning_effort",
    "response_format",
    "tool_choice",
    "tools",
    "top_logprobs",
    "truncate_prompt_tokens",
)
_APIS: Final = frozenset({pb.ENGINE_API_CHAT_COMPLETIONS, pb.ENGINE_API_COMPLETIONS})
_DECODER: Final = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Continuation:
    """A stream that another node began."""

    opening: dict[str, Any]
    """What all its chunks have alike."""
    prompt_tokens: int
    relayed_tokens: int
    settled_tokens: int
    """Of the relayed ones, those that are not generated anew."""
    sent_text: str
    """What the client has of the text of the others."""


def held_back(body: dict[str, Any]) -> int | None:
    """Characters that the engine holds back for the stop strings; None: it cannot be told where text ends."""
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    longest = max((len(text) for text in stops if isinstance(text, str)), default=0)
    if longest > 1 and body.get("include_stop_str_in_output"):
        # Nothing is held back then, and half of a stop string may have been sent.
        return None
    return max(longest - 1, 0)


def can_resume(api: int, body: dict[str, Any]) -> bool:
    """Whether ids alone are enough to go on with an answer to this body."""
    if api not in _APIS or held_back(body) is None:
        return False
    for name in _LOST:
        value = body.get(name)
        if value not in (None, False, _PLAIN.get(name)) and not (name == "tools" and body.get("tool_choice") == "none"):
            return False
    if body.get("logprobs") is not None and body["logprobs"] is not False:
        return False
    wanted = body.get("response_format")
    if wanted is not None and not (isinstance(wanted, dict) and wanted.get("type") == "text"):
        return False
    if any(name.startswith("guided_") and value is not None for name, value in body.items()):
        return False
    return (
        _only_text(body.get("messages")) if api == pb.ENGINE_API_CHAT_COMPLETIONS else _one_prompt(body.get("prompt"))
    )


def read_continuation(resume: pb.RelayResume) -> Continuation:
    """Checks what a gateway brought. Raises INVALID_ARGUMENT."""
    try:
        opening = _DECODER.decode(resume.stream_opening[: MAX_OPENING_BYTES + 1])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _wrong("resume.stream_opening") from None
    if not resume.prompt_ids or len(resume.prompt_ids) % ID_BYTES:
        raise _wrong("resume.prompt_ids")
    relayed, odd = divmod(len(resume.token_ids), ID_BYTES)
    if odd or resume.unsettled_tokens > relayed:
        raise _wrong("resume.token_ids")
    if not resume.context_length:
        raise _wrong("resume.context_length")
    return Continuation(
        opening=opening,
        prompt_tokens=len(resume.prompt_ids) // ID_BYTES,
        relayed_tokens=relayed,
        settled_tokens=relayed - resume.unsettled_tokens,
        sent_text=resume.unsettled_text,
    )


def continuation_body(api: int, body: dict[str, Any], resume: pb.RelayResume, going: Continuation) -> dict[str, Any]:
    """What the engine is asked: the client's body with the ids in place of its prompt, and less to generate."""
    asked = {name: value for name, value in body.items() if name not in _OF_THE_PROMPT}
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is None and api == pb.ENGINE_API_COMPLETIONS:
        limit = DEFAULT_COMPLETION_TOKENS
    room = resume.context_length - going.prompt_tokens
    limit = min(limit, room) if isinstance(limit, int) else room
    asked["prompt"] = unpacked(resume.prompt_ids) + unpacked(resume.token_ids)[: going.settled_tokens]
    # The chunk that ends an answer is kept until the answer is whole: at least one token is always left.
    asked["max_tokens"] = max(limit - going.settled_tokens, 1)
    least = body.get("min_tokens")
    if isinstance(least, int):
        asked["min_tokens"] = max(least - going.settled_tokens, 0)
    return asked


def packed(ids: Iterable[int]) -> bytes:
    """Ids as 4 bytes each, little-endian. Raises OverflowError or TypeError for what is no id."""
    words = array("I", ids)
    if sys.byteorder != "little":
        words.byteswap()
    return words.tobytes()


def unpacked(data: bytes) -> list[int]:
    """The reverse."""
    words = array("I", data)
    if sys.byteorder != "little":
        words.byteswap()
    return words.tolist()


def _only_text(messages: Any) -> bool:
    """Whether the prompt's ids say all of the conversation: pictures and sounds are more than their placeholders."""
    if not isinstance(messages, list):
        return False
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and not all(isinstance(part, dict) and _is_text(part) for part in content):
            return False
    return True


def _is_text(part: dict[str, Any]) -> bool:
    return isinstance(part.get("text"), str) and part.get("type", "text") in ("text", "input_text", "output_text")


def _one_prompt(prompt: Any) -> bool:
    """A text or the ids of one; a list with one of either is one too, but rare enough to leave alone."""
    return isinstance(prompt, str) or (isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int))


def _wrong(param: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{param}` is not what a node said of a stream.", param=param)
