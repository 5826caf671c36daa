"""One request under way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from crosslogic_sim_engine.choice import Choice
from crosslogic_sim_engine.faults import Faults
from crosslogic_sim_engine.parsing import GenerationRequest
from crosslogic_sim_engine.records import RequestRecord

Failure = Literal["cut", "garbage", "error"]


class Sink(Protocol):
    """Where a stream's bytes go."""

    def write(self, data: bytes) -> None:
        """Sends one HTTP chunk."""

    def blocked(self) -> bool:
        """The reader is so slow that what is generated should wait and share chunks."""

    def gone(self) -> bool:
        """The reader has closed: nothing more can be written."""

    def end(self) -> None:
        """Ends the answer; the connection may serve another."""

    def cut(self, partial: bytes) -> None:
        """Sends half of a chunk that holds `partial` and closes the connection."""

    def garbage(self) -> None:
        """Sends bytes that are no HTTP chunk and no text."""


class Shape(Protocol):
    """How an API writes its answers."""

    def opening(self, job: "Job") -> bytes:
        """What comes before the first chunk of a stream, together with it."""

    def chunk(self, job: "Job", choice: Choice, text: str, ids: list[int]) -> bytes:
        """One chunk of a stream; the choice's finish_reason is set in the last one."""

    def closing(self, job: "Job") -> bytes:
        """What comes after the last chunk of a stream: usage, the end mark."""

    def failure(self, job: "Job") -> bytes:
        """How a stream ends when the engine's core dies."""

    def whole(self, job: "Job") -> bytes:
        """The body of an answer that is not streamed."""


@dataclass(slots=True, kw_only=True)
class Job:
    """A request's choices, and where its answer goes."""

    id: str
    created: int
    model: str
    request: GenerationRequest
    shape: Shape
    choices: list[Choice]
    record: RequestRecord
    faults: Faults
    sink: Sink | None
    """None when it is not streamed."""
    on_done: Callable[["Job"], None]
    """Called once, when its answer is complete or has failed; not when its client has gone."""
    ended: bool = False
    failed: Failure | None = None
    """How an answer that is not streamed fails."""
    left: int = 0
    """Choices that have not sent their last chunk."""
    opened: bool = False
    texts: dict[int, str] = field(default_factory=dict)
    """By choice: all text so far, where the shape repeats it at the end."""

    @property
    def prompt_tokens(self) -> int:
        """Each prompt once, whatever `n`."""
        return sum(len(prompt) for prompt in self.request.prompts)

    @property
    def completion_tokens(self) -> int:
        """Of all choices."""
        return sum(choice.generated for choice in self.choices)

    def finish(self) -> None:
        """Says that its answer is complete."""
        if not self.ended:
            self.ended = True
            self.on_done(self)
