"""Server-sent events of the engine: found as they arrive, read for counts, stripped of what was not asked. Pure."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from crosslogic_node_agent.continuation import MAX_OPENING_BYTES
from crosslogic_node_agent.domain import CountSource, TokenCount
from crosslogic_node_agent.engine_request import EngineRequest
from crosslogic_node_agent.resume_points import ResumePoints

MAX_EVENT_BYTES = 16 * 1024 * 1024
CANNOT_RESUME: Final = -1
ABORTED: Final = "abort"
"""The finish reason of an engine that was told to stop, by anybody but us: the answer is not whole."""
DONE: Final = b"[DONE]"
_OPENING: Final = ("id", "object", "created", "model")
_TEXT_ONLY: Final = frozenset({"role", "content"})
_DECODER: Final = msgspec.json.Decoder(dict[str, Any])
_ENCODER: Final = msgspec.json.Encoder()


class EventError(Exception):
    """The engine sent what is no event of its API, or an error in the middle of its answer."""


class Piece(NamedTuple):
    """Bytes for the client, with what they hold."""

    data: bytes
    completion_tokens: int
    """Generated so far, as of `data`."""
    token_ids: tuple[int, ...]
    unsettled_tokens: int = 0
    """As of `data`, what a resume elsewhere generates anew (resume_points.py); `CANNOT_RESUME`: there can be none."""
    unsettled_text: str = ""


class EventReader(Protocol):
    """Reads one streamed answer."""

    finished: bool
    """The answer's own last event has come: a body that ends before it was cut."""

    stream_opening: bytes
    """What all chunks have alike, for a resume elsewhere. Empty: there can be none."""

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """Ids of the prompt's tokens, once told."""

    def feed(self, data: bytes) -> list[Piece]:
        """What of the bytes is for the client. Raises EventError."""

    def count(self) -> TokenCount:
        """The tokens as last told by the engine."""


def payloads(events: list[bytes]) -> Iterator[bytes]:
    """The data of events that have nothing else. Raises EventError; comments are passed over."""
    for event in events:
        if event[:6] == b"data: ":
            yield event[6:]
        elif event and not event.startswith(b":"):
            raise EventError("an event without data")


class EventSplitter:
    """Cuts a byte stream into events."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def split(self, data: bytes) -> list[bytes]:
        """The events that are complete, without their blank line. Raises EventError."""
        if self._buffer:
            data = self._buffer + data
        if b"\r" in data:
            # JSON writes a carriage return as an escape: one in the bytes is a line end.
            held = b"\r" if data.endswith(b"\r") else b""
            data = data.removesuffix(b"\r").replace(b"\r\n", b"\n") + held
        events = data.split(b"\n\n")
        self._buffer = events.pop()
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise EventError("an event that does not end")
        return events


class Chunk(NamedTuple):
    """One chunk of a completion as it was read."""

    body: dict[str, Any]
    """Without its usage."""
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None
    token_ids: tuple[int, ...]


class ChunkReader:
    """Reads the chunks of /v1/chat/completions and /v1/completions, and keeps their counts."""

    __slots__ = (
        "_cached_tokens",
        "_hide_ids",
        "_prompt_counts",
        "_request",
        "_running",
        "completion_tokens",
        "prompt_token_ids",
        "source",
    )

    def __init__(self, request: EngineRequest, *, hide_ids: bool) -> None:
        """With `hide_ids`, ids of tokens are taken out of what is returned."""
        self._request = request
        self._hide_ids = hide_ids
        self._cached_tokens = 0
        self._running: dict[int, int] = {}
        self._prompt_counts: dict[int, int] = {}
        self.completion_tokens = 0
        self.source = CountSource.NONE
        self.prompt_token_ids: tuple[int, ...] = ()

    def read(self, payload: bytes) -> Chunk:
        """One event's JSON. Raises EventError."""
        try:
            body = _DECODER.decode(payload)
            if "error" in body:
                raise EventError(f"the engine failed in mid-answer: {payload[:200]!r}")
            choices = body["choices"]
            usage = body.pop("usage", None)
            if usage is not None:
                self._take_usage(usage, choices)
            return Chunk(body, choices, usage, self._take_choices(body, choices))
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise EventError(f"a chunk that cannot be read: {error}") from None

    def count(self) -> TokenCount:
        """The tokens as last told by the engine."""
        return TokenCount(
            prompt_tokens=sum(self._prompt_counts.values()),
            cached_prompt_tokens=self._cached_tokens,
            completion_tokens=self.completion_tokens,
            source=self.source,
        )

    def _take_choices(self, body: dict[str, Any], choices: list[dict[str, Any]]) -> tuple[int, ...]:
        hide = self._hide_ids
        prompt_ids = body.pop("prompt_token_ids", None) if hide else body.get("prompt_token_ids")
        token_ids: tuple[int, ...] = ()
        for choice in choices:
            if choice.get("finish_reason") == ABORTED:
                raise EventError("the engine aborted its answer")
            ids = choice.pop("token_ids", None) if hide else choice.get("token_ids")
            if ids:
                token_ids = (*token_ids, *ids) if token_ids else tuple(ids)
            choice_prompt_ids = choice.pop("prompt_token_ids", None) if hide else choice.get("prompt_token_ids")
            prompt_ids = prompt_ids or choice_prompt_ids
        if prompt_ids and not self.prompt_token_ids:
            self.prompt_token_ids = tuple(prompt_ids)
        return token_ids

    def _take_usage(self, usage: dict[str, Any], choices: list[dict[str, Any]]) -> None:
        prompt_tokens = int(usage["prompt_tokens"])
        completion_tokens = int(usage.get("completion_tokens") or 0)
        details = usage.get("prompt_tokens_details")
        if details:
            self._cached_tokens = int(details.get("cached_tokens") or 0)
        if not choices:
            self._prompt_counts = {0: prompt_tokens}
            self.completion_tokens = completion_tokens
            self.source = CountSource.FINAL
            return
        # Running usage is one choice's own: its prompt, and what that choice has generated.
        index = int(choices[0]["index"])
        if index == 0 and self._request.choices == self._request.prompts == 1:
            self.completion_tokens = completion_tokens
        else:
            self._running[index] = completion_tokens
            self.completion_tokens = sum(self._running.values())
        self._prompt_counts[index // self._request.choices] = prompt_tokens
        self.source = CountSource.RUNNING


class CompletionEvents:
    """Streams of /v1/chat/completions and /v1/completions, as their clients asked for them."""

    __slots__ = (
        "_chunks",
        "_continuous_usage",
        "_include_usage",
        "_kept",
        "_model",
        "_points",
        "_splitter",
        "finished",
        "stream_opening",
    )

    def __init__(
        self, request: EngineRequest, *, include_usage: bool, continuous_usage: bool, return_token_ids: bool
    ) -> None:
        """The flags say what the client asked for; the engine is asked for all of it always."""
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._model = request.model if request.rename else None
        self._splitter = EventSplitter()
        self._chunks = ChunkReader(request, hide_ids=not return_token_ids)
        self._points: ResumePoints | None = None
        if request.held_back is not None:
            self._points = ResumePoints(hold=request.held_back, strict=request.greedy)
        self._kept: list[Piece] = []
        self.stream_opening = b""
        self.finished = False

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """Ids of the prompt's tokens, once told."""
        return self._chunks.prompt_token_ids

    def feed(self, data: bytes) -> list[Piece]:
        """What of the bytes is for the client. Raises EventError.

        Of a stream that can be resumed, the chunk that ends the answer is kept until the last event has come: an
        engine that dies between the two leaves a stream that another can end.
        """
        pieces: list[Piece] = []
        for payload in payloads(self._splitter.split(data)):
            if payload == DONE:
                # Without the final usage the engine broke off, however politely.
                self.finished = self._chunks.source is not CountSource.RUNNING
                if self.finished:
                    pieces += self._kept
                    self._kept = []
                pieces.append(Piece(b"data: [DONE]\n\n", self._chunks.completion_tokens, ()))
                continue
            chunk = self._chunks.read(payload)
            piece = self._piece(chunk)
            if piece is None:
                continue
            if self._kept or (self._points is not None and chunk.choices and chunk.choices[0].get("finish_reason")):
                self._kept.append(piece)
            else:
                pieces.append(piece)
        return pieces

    def count(self) -> TokenCount:
        """The tokens as last told by the engine."""
        return self._chunks.count()

    def _piece(self, chunk: Chunk) -> Piece | None:
        body, choices, usage, token_ids = chunk
        if not choices and usage is not None and not self._include_usage:
            return None
        if self._points is not None and choices:
            self._follow(self._points, body, choices[0], len(token_ids))
        if self._include_usage:
            body["usage"] = usage if not choices or self._continuous_usage else None
        if self._model is not None:
            body["model"] = self._model
        data = b"data: %b\n\n" % _ENCODER.encode(body)
        points = self._points
        if points is None:
            return Piece(data, self._chunks.completion_tokens, token_ids, CANNOT_RESUME)
        return Piece(data, self._chunks.completion_tokens, token_ids, points.unsettled_tokens, points.unsettled_text)

    def _follow(self, points: ResumePoints, body: dict[str, Any], choice: dict[str, Any], tokens: int) -> None:
        if not self.stream_opening and self._chunks.prompt_token_ids:
            opening = _ENCODER.encode({name: body[name] for name in _OPENING if name in body})
            self.stream_opening = opening if len(opening) <= MAX_OPENING_BYTES else b""
        delta = choice.get("delta")
        if delta is None:
            points.took(tokens, choice.get("text") or "")
            return
        if any(value and name not in _TEXT_ONLY for name, value in delta.items()):
            # A parser reads reasoning or a call out of the text: what it knows by now is known to it alone.
            self._points = None
        points.took(tokens, delta.get("content") or "")


class TypedEvents:
    """Streams of /v1/responses and /v1/messages: relayed as they are; the counts come in events of their own."""

    __slots__ = ("_count", "_model", "_splitter", "finished", "prompt_token_ids", "stream_opening")

    _LAST: Final = frozenset({"response.completed", "response.incomplete", "message_stop"})
    _FAILED: Final = frozenset({"response.failed", "error"})
    _READ: Final = frozenset({"message_start", "message_delta"})
    _RENAMED: Final = frozenset({"response.created", "response.in_progress"})

    def __init__(self, request: EngineRequest) -> None:
        self._model = request.model if request.rename else None
        self._splitter = EventSplitter()
        self._count = TokenCount()
        self.prompt_token_ids: tuple[int, ...] = ()
        self.stream_opening = b""
        self.finished = False

    def feed(self, data: bytes) -> list[Piece]:
        """What of the bytes is for the client. Raises EventError."""
        pieces: list[Piece] = []
        for event in self._splitter.split(data):
            if not event:
                continue
            out = self._event(event)
            pieces.append(Piece(out + b"\n\n", self._count.completion_tokens, ()))
        return pieces

    def count(self) -> TokenCount:
        """The tokens as last told by the engine."""
        return self._count

    def _event(self, event: bytes) -> bytes:
        head, found, payload = event.rpartition(b"data: ")
        if not found or payload == DONE:
            return event
        kind = head.removeprefix(b"event: ").strip().decode("ascii", "replace")
        wanted = kind in self._LAST or kind in self._FAILED or kind in self._READ
        if not wanted and kind and not (self._model is not None and kind in self._RENAMED):
            return event
        try:
            body = _DECODER.decode(payload)
        except msgspec.DecodeError as error:
            raise EventError(f"an event that cannot be read: {error}") from None
        kind = kind or str(body.get("type", ""))
        if kind in self._FAILED:
            raise EventError(f"the engine failed in mid-answer: {payload[:200]!r}")
        renamed = self._rename(body)
        try:
            self._take(kind, body)
        except (TypeError, ValueError, AttributeError) as error:
            raise EventError(f"an event that cannot be read: {error}") from None
        return head + found + _ENCODER.encode(body) if renamed else event

    def _take(self, kind: str, body: dict[str, Any]) -> None:
        if kind in self._LAST:
            self.finished = True
        holder = body.get("response") or body.get("message") or body
        usage = holder.get("usage")
        if not usage:
            return
        # A delta leaves out what the start has said.
        self._count = TokenCount(
            prompt_tokens=int(usage.get("input_tokens") or self._count.prompt_tokens),
            cached_prompt_tokens=_cached_input(usage) or self._count.cached_prompt_tokens,
            completion_tokens=int(usage.get("output_tokens") or self._count.completion_tokens),
            source=CountSource.RUNNING if kind == "message_start" else CountSource.FINAL,
        )

    def _rename(self, body: dict[str, Any]) -> bool:
        if self._model is None:
            return False
        holder = body.get("response") or body.get("message")
        if not isinstance(holder, dict) or "model" not in holder:
            return False
        holder["model"] = self._model
        return True


def _cached_input(usage: dict[str, Any]) -> int:
    details = usage.get("input_tokens_details") or {}
    return int(usage.get("cache_read_input_tokens") or details.get("cached_tokens") or 0)
