"""What an endpoint of somebody else's answers: read for its count, and passed on as OpenAI's API has it. Pure.

Fields that OpenAI's API does not have stay here: providers add their own, and some of them tell what the operator pays.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from crosslogic_common.errors import CodedError
from crosslogic_node_agent.answer_readers import MAX_ANSWER_BYTES, pieces_of
from crosslogic_node_agent.domain import CountSource, TokenCount
from crosslogic_node_agent.engine_request import EngineRequest
from crosslogic_node_agent.events import ABORTED, CANNOT_RESUME, DONE, EventError, EventSplitter, Piece
from crosslogic_node_agent.external.refusals import MAX_READ_BYTES, Refusal, read_refusal
from crosslogic_node_agent.external.terms import ExternalTerms

_MAX_COUNT = 2**31 - 1
_BROKEN: Final = frozenset({ABORTED, "error"})
"""Finish reasons that no whole answer has."""
_ANSWER: Final[tuple[str, ...]] = ("id", "object", "created", "model", "choices", "data", "system_fingerprint")
_ENVELOPE: Final[tuple[str, ...]] = ("id", "object", "created", "model")
_USAGE: Final[tuple[str, ...]] = (
    *("prompt_tokens", "completion_tokens", "total_tokens"),
    *("prompt_tokens_details", "completion_tokens_details"),
)
_DECODER: Final = msgspec.json.Decoder(dict[str, Any])
_ENCODER: Final = msgspec.json.Encoder()


class ExternalReader:
    """Reads one answer, whole or streamed."""

    def __init__(
        self,
        request: EngineRequest,
        terms: ExternalTerms,
        *,
        include_usage: bool,
        on_refusal: Callable[[Refusal], None] = lambda _refusal: None,
    ) -> None:
        """`include_usage`: the client wants a stream's usage. `on_refusal` is told what a refusal came to."""
        self._on_refusal = on_refusal
        self._request = request
        self._terms = terms
        self._stream = ExternalEvents(request.model, include_usage=include_usage) if request.stream else None
        self._parts: list[bytes] = []
        self._size = 0
        self._status = 0
        self._is_stream = False
        self._count = TokenCount()
        self._refusal: Refusal | None = None
        self.prompt_token_ids: tuple[int, ...] = ()
        self.stream_opening = b""

    @property
    def refused(self) -> bool:
        """The endpoint answered with no answer: an error, or an address to go to instead."""
        return self._status >= 300  # noqa: PLR2004  # HTTP's own boundary

    def on_head(self, status: int, content_type: str) -> str:
        """The endpoint answered."""
        self._status = status
        if self._stream is None or self.refused:
            return "application/json"
        self._is_stream = content_type.lower().startswith("text/event-stream")
        return "text/event-stream; charset=utf-8"

    def feed(self, data: bytes) -> list[Piece]:
        """What of the bytes is for the client now. Raises EventError."""
        if self._stream is not None and not self.refused:
            if not self._is_stream:
                raise EventError("the endpoint answered with something else than a stream")
            return self._stream.feed(data)
        if self.refused and self._size >= MAX_READ_BYTES:
            return []
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            raise EventError("the answer is too large")
        self._parts.append(data)
        return []

    def finish(self) -> list[Piece]:
        """What is for the client still. Raises EventError when the answer is not whole."""
        body = b"".join(self._parts)
        self._parts = []
        if self.refused:
            self._refusal = read_refusal(self._status, body, terms=self._terms, model=self._request.model)
            self._on_refusal(self._refusal)
            return pieces_of(self._refusal.body)
        if self._stream is not None:
            if not self._stream.finished:
                raise EventError("the stream ended before its last event")
            return []
        answer = self._whole(body)
        return pieces_of(_encoded(answer))

    def refusal(self, status: int) -> tuple[int, CodedError]:
        """The status and the error that the gateway is told of."""
        found = self._refusal or read_refusal(status, b"", terms=self._terms, model=self._request.model)
        return found.status or status, found.error

    def count(self) -> TokenCount:
        """The tokens as last told by the endpoint."""
        return self._count if self._stream is None else self._stream.count()

    def _whole(self, body: bytes) -> dict[str, Any]:
        said = _decoded(body)
        choices, data = said.get("choices"), said.get("data")
        if not (isinstance(choices, list) or (choices is None and isinstance(data, list))):
            raise EventError("an answer with nothing in it")
        _check_choices(choices or [])
        answer: dict[str, Any] = {name: said[name] for name in _ANSWER if name in said} | {"model": self._request.model}
        usage = _usage(said.get("usage"))
        if usage is not None:
            answer["usage"] = usage
            self._count = _count(usage, CountSource.FINAL)
        return answer


class ExternalEvents:
    """A stream of chat or completions. Its usage may come with any chunk; its client gets it as OpenAI sends it."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._model = model
        self._include_usage = include_usage
        self._splitter = EventSplitter()
        self._envelope: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None
        self.finished = False

    def feed(self, data: bytes) -> list[Piece]:
        """What of the bytes is for the client. Raises EventError."""
        pieces: list[Piece] = []
        for event in self._splitter.split(data):
            payload = _data_of(event)
            if not payload or self.finished:
                continue
            if payload == DONE:
                self.finished = True
                pieces += self._ending()
            else:
                pieces += self._chunk(_decoded(payload))
        return pieces

    def count(self) -> TokenCount:
        """The tokens as last told by the endpoint."""
        if self._usage is None:
            return TokenCount()
        return _count(self._usage, CountSource.FINAL if self.finished else CountSource.RUNNING)

    def _chunk(self, said: dict[str, Any]) -> list[Piece]:
        choices = said.get("choices") or []
        if not isinstance(choices, list):
            raise EventError("a chunk that cannot be read")
        _check_choices(choices)
        self._usage = _usage(said.get("usage")) or self._usage
        chunk: dict[str, Any] = {name: said[name] for name in _ANSWER if name in said} | {"model": self._model}
        if not choices:
            return []
        if not self._envelope:
            self._envelope = {name: chunk[name] for name in _ENVELOPE if name in chunk}
        if self._include_usage:
            chunk["usage"] = None
        return [self._piece(chunk)]

    def _ending(self) -> list[Piece]:
        ending = [Piece(b"data: [DONE]\n\n", self.count().completion_tokens, (), CANNOT_RESUME)]
        if self._include_usage and self._usage is not None:
            ending.insert(0, self._piece({**self._envelope, "choices": [], "usage": self._usage}))
        return ending

    def _piece(self, chunk: dict[str, Any]) -> Piece:
        return Piece(b"data: %b\n\n" % _encoded(chunk), self.count().completion_tokens, (), CANNOT_RESUME)


def _data_of(event: bytes) -> bytes:
    """The data of an event; empty: it has none."""
    lines = (line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(lines)


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        said = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError(f"what cannot be read: {error}") from None
    if said.get("error"):
        # What it says stays there: it may name our account.
        raise EventError("the endpoint told of an error in place of an answer")
    return said


def _encoded(said: dict[str, Any]) -> bytes:
    try:
        return _ENCODER.encode(said)
    except (OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise EventError(f"what cannot be written: {error}") from None


def _check_choices(choices: list[Any]) -> None:
    for choice in choices:
        if not isinstance(choice, dict):
            raise EventError("a choice that cannot be read")
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason in _BROKEN:
            raise EventError("the endpoint broke its answer off")


def _usage(said: Any) -> dict[str, Any] | None:
    """A usage that can be counted by; None: it is none."""
    if not isinstance(said, dict) or not _is_count(said.get("prompt_tokens")):
        return None
    usage = {name: said[name] for name in _USAGE if name in said}
    if usage.get("completion_tokens") is None:
        # Embeddings generate none.
        usage.pop("completion_tokens", None)
    elif not _is_count(usage["completion_tokens"]):
        return None
    return usage


def _count(usage: dict[str, Any], source: CountSource) -> TokenCount:
    details = usage.get("prompt_tokens_details")
    cached: Any = details.get("cached_tokens") if isinstance(details, dict) else 0
    return TokenCount(
        prompt_tokens=usage["prompt_tokens"],
        cached_prompt_tokens=cached if _is_count(cached) else 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        source=source,
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT
