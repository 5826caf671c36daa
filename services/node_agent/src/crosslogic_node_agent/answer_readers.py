"""What reads an engine's answer: events as they come, or a body once it is whole. Pure."""

from typing import Any, Protocol

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError
from crosslogic_node_agent import errors
from crosslogic_node_agent.assembly import AssembledAnswer
from crosslogic_node_agent.continued_events import ContinuedEvents
from crosslogic_node_agent.domain import TokenCount
from crosslogic_node_agent.engine_request import COUNTED_APIS, EngineRequest
from crosslogic_node_agent.events import CompletionEvents, EventError, EventReader, Piece, TypedEvents
from crosslogic_node_agent.whole_answer import AnswerError, read_count, renamed

MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ERROR_BODY_BYTES = 1024 * 1024
_PIECE_BYTES = 64 * 1024


class AnswerReader(Protocol):
    """Reads one answer."""

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """Ids of the prompt's tokens, once told."""

    @property
    def stream_opening(self) -> bytes:
        """What all chunks have alike, for a resume elsewhere. Empty: there can be none."""

    @property
    def refused(self) -> bool:
        """The engine answered with an error status: its body goes on as it is and counts nothing."""

    def on_head(self, status: int, content_type: str) -> str:
        """The engine answered; returns the content type to tell the client."""

    def feed(self, data: bytes) -> list[Piece]:
        """What of the bytes is for the client now. Raises EventError."""

    def finish(self) -> list[Piece]:
        """The body is complete: what is for the client still. Raises EventError when the answer is not."""

    def refusal(self, status: int) -> tuple[int, CodedError]:
        """What the gateway is told of a refusal with `status`, once it is read: a status, and the error."""

    def count(self) -> TokenCount:
        """The tokens as last told by the engine."""


def make_reader(request: pb.RelayOpen, engine_request: EngineRequest) -> AnswerReader:
    """The reader of a call's answer."""
    if engine_request.template is not None:
        return AssembledReader(engine_request, engine_request.template)
    if not request.stream:
        return WholeReader(engine_request)
    events: EventReader
    if engine_request.continuation is not None:
        events = ContinuedEvents(
            engine_request,
            engine_request.continuation,
            include_usage=request.include_usage,
            continuous_usage=request.continuous_usage,
            return_token_ids=request.return_token_ids,
        )
    elif request.api in COUNTED_APIS:
        events = CompletionEvents(
            engine_request,
            include_usage=request.include_usage,
            continuous_usage=request.continuous_usage,
            return_token_ids=request.return_token_ids,
        )
    else:
        events = TypedEvents(engine_request)
    return StreamReader(engine_request, events)


class WholeReader:
    """Gathers a body."""

    __slots__ = ("_count", "_parts", "_request", "_size", "refused", "stream_opening")

    def __init__(self, request: EngineRequest) -> None:
        self._request = request
        self._parts: list[bytes] = []
        self._size = 0
        self._count = TokenCount()
        self.refused = False
        self.stream_opening = b""

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """None: a whole answer is asked for anew rather than resumed."""
        return ()

    def on_head(self, status: int, content_type: str) -> str:
        """The engine answered."""
        self.refused = status >= 400  # noqa: PLR2004  # HTTP's own boundary
        return content_type

    def feed(self, data: bytes) -> list[Piece]:
        """Nothing before the body is complete. Raises EventError for one that is too large."""
        self._size += len(data)
        if self._size > (MAX_ERROR_BODY_BYTES if self.refused else MAX_ANSWER_BYTES):
            raise EventError("the answer is too large")
        self._parts.append(data)
        return []

    def finish(self) -> list[Piece]:
        """The body. Raises EventError when it is no answer."""
        body = b"".join(self._parts)
        self._parts = []
        if not self.refused:
            try:
                self._count = read_count(body)
                if self._request.rename:
                    body = renamed(body, self._request.model)
            except AnswerError as error:
                raise EventError(str(error)) from None
        return pieces_of(body)

    def refusal(self, status: int) -> tuple[int, CodedError]:
        """The status as it is, and what it comes to."""
        return status, errors.refused(status)

    def count(self) -> TokenCount:
        """The usage of the answer; none before it is complete."""
        return self._count


class StreamReader:
    """Passes events on as they come; gathers the body of a refusal."""

    __slots__ = ("_events", "_refusal", "_request")

    def __init__(self, request: EngineRequest, events: EventReader) -> None:
        self._request = request
        self._events = events
        self._refusal: WholeReader | None = None

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """Ids of the prompt's tokens, once told."""
        return self._events.prompt_token_ids

    @property
    def stream_opening(self) -> bytes:
        """What all chunks have alike, for a resume elsewhere. Empty: there can be none."""
        return self._events.stream_opening

    @property
    def refused(self) -> bool:
        """The engine answered with an error status."""
        return self._refusal is not None

    def on_head(self, status: int, content_type: str) -> str:
        """The engine answered."""
        if status >= 400:  # noqa: PLR2004  # HTTP's own boundary
            self._refusal = WholeReader(self._request)
            self._refusal.on_head(status, content_type)
        return content_type

    def feed(self, data: bytes) -> list[Piece]:
        """The events in the bytes."""
        return self._events.feed(data) if self._refusal is None else self._refusal.feed(data)

    def finish(self) -> list[Piece]:
        """Raises EventError when the last event has not come: the answer was cut, however politely."""
        if self._refusal is not None:
            return self._refusal.finish()
        if not self._events.finished:
            raise EventError("the stream ended before its last event")
        return []

    def refusal(self, status: int) -> tuple[int, CodedError]:
        """The status as it is, and what it comes to."""
        return status, errors.refused(status)

    def count(self) -> TokenCount:
        """The tokens as last told by the engine."""
        return self._events.count()


class AssembledReader:
    """Puts a whole answer together from a stream; gathers the body of a refusal."""

    __slots__ = ("_answer", "_refusal", "_request", "stream_opening")

    def __init__(self, request: EngineRequest, template: dict[str, Any]) -> None:
        self.stream_opening = b""
        self._request = request
        self._answer = AssembledAnswer(request, template)
        self._refusal: WholeReader | None = None

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """None: a whole answer is asked for anew rather than resumed."""
        return ()

    @property
    def refused(self) -> bool:
        """The engine answered with an error status."""
        return self._refusal is not None

    def on_head(self, status: int, content_type: str) -> str:
        """The engine answered."""
        if status >= 400:  # noqa: PLR2004  # HTTP's own boundary
            self._refusal = WholeReader(self._request)
            return self._refusal.on_head(status, content_type)
        return "application/json"

    def feed(self, data: bytes) -> list[Piece]:
        """Nothing before the answer is complete."""
        if self._refusal is not None:
            return self._refusal.feed(data)
        self._answer.feed(data)
        return []

    def finish(self) -> list[Piece]:
        """The answer. Raises EventError when it is not whole."""
        return self._refusal.finish() if self._refusal is not None else pieces_of(self._answer.body())

    def refusal(self, status: int) -> tuple[int, CodedError]:
        """The status as it is, and what it comes to."""
        return status, errors.refused(status)

    def count(self) -> TokenCount:
        """The tokens as last told by the engine."""
        return self._answer.count()


def pieces_of(body: bytes) -> list[Piece]:
    """A whole body in pieces that fit any credit."""
    if len(body) <= _PIECE_BYTES:
        return [Piece(body, 0, ())] if body else []
    return [Piece(body[at : at + _PIECE_BYTES], 0, ()) for at in range(0, len(body), _PIECE_BYTES)]
