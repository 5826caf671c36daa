"""What notifications need of the world."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from crosslogic_orchestrator.notify.domain import Event, Message, Route, Target

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Numeric addresses of a host. Raises OSError when there are none."""


class SendError(Exception):
    """A message was not taken. Its text is for whoever owns the route: it tells nothing of what is inside."""

    def __init__(self, text: str, *, for_good: bool = False, retry_after_s: float | None = None) -> None:
        """`for_good`: trying again would change nothing."""
        super().__init__(text)
        self.for_good = for_good
        self.retry_after_s = retry_after_s


class Sender(Protocol):
    """Sends a message over one channel."""

    async def send(self, message: Message, route: Route, target: Target) -> None:
        """Returns once the receiver has taken it. Raises SendError."""


class Source(Protocol):
    """Something that events are read from, in an order that holds: none appears before one that was read."""

    @property
    def name(self) -> str:
        """Names its cursor."""

    async def after(self, sequence: int, *, limit: int) -> tuple[list[Event], int]:
        """Events after a sequence, oldest first, and where that leaves the cursor. Raises UNAVAILABLE."""
