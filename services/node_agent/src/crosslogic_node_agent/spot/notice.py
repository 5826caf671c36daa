"""The words of spot notices."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol

UNREADABLE = "unreadable"
"""The action of a notice that cannot be read: something is up, and nobody knows what."""
MAX_ACTION_CHARS = 64
MAX_WINDOW_S = 3600.0


class NoticeKind(StrEnum):
    """What a notice asks for."""

    RISK = "risk"
    """The machine may go soon: nothing new is placed here while others can take it. May be withdrawn."""
    TERMINATION = "termination"
    """The machine goes. Final."""


@dataclass(frozen=True, slots=True)
class SpotNotice:
    """What a cloud told."""

    kind: NoticeKind
    source: str
    """`aws`, `gcp`, `azure`, `file` or `signal`."""
    action: str
    """The cloud's own word."""
    noticed_at: datetime
    deadline_at: datetime | None = None
    """When the machine goes. None: not said."""

    @property
    def reason(self) -> str:
        """For people."""
        until = f" at {self.deadline_at:%H:%M:%SZ}" if self.deadline_at else ""
        return f"spot notice from {self.source}: {self.action}{until}"

    def window_s(self, now: datetime, *, handover_s: float) -> float:
        """For how long requests may go on here, in seconds: until `handover_s` before the deadline."""
        if self.deadline_at is None:
            return 0.0
        return min(max((self.deadline_at - now).total_seconds() - handover_s, 0.0), MAX_WINDOW_S)


class SpotSource(Protocol):
    """Where notices come from."""

    @property
    def pause_s(self) -> float:
        """How long to wait between two looks, in seconds."""

    async def look(self, now: datetime) -> SpotNotice | None:
        """What is known now; None: nothing. Raises MetadataError when it cannot be found out; may wait for news."""

    async def acknowledge(self) -> None:
        """The node has left: the machine may be taken. Raises MetadataError."""


class MetadataError(Exception):
    """A metadata service did not answer, or with an error."""


def parse_time(text: object) -> datetime | None:
    """A moment as AWS writes it (`2017-09-18T08:22:00Z`); None: it is none."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def within(now: datetime, deadline_at: datetime | None, *, assumed_s: float) -> datetime:
    """A deadline that can be worked with: as said, unless it is missing or was over before it was read."""
    if deadline_at is None or deadline_at > now + timedelta(seconds=MAX_WINDOW_S):
        return now + timedelta(seconds=assumed_s)
    return max(deadline_at, now)


def short_action(text: object) -> str:
    """A cloud's own word, made fit to be shown."""
    if not isinstance(text, str) or not text:
        return UNREADABLE
    return "".join(char if char.isprintable() and char.isascii() else "?" for char in text[:MAX_ACTION_CHARS])
