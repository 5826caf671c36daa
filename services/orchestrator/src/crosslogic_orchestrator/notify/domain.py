"""The words of notifications."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from enum import IntEnum
from typing import Any, Literal
from zoneinfo import ZoneInfo

Channel = Literal["slack", "discord", "email", "webhook"]
State = Literal["pending", "sent", "dead", "dropped"]

CHANNELS: tuple[Channel, ...] = ("slack", "discord", "email", "webhook")
TEST_KIND = "test"
DEAD_KIND = "notification_dead"
"""A message was given up: told on the other routes of whose it was."""


class Severity(IntEnum):
    """How much an event matters."""

    INFO = 1
    WARNING = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietHours:
    """When a route says nothing: each day from `start` to `end` by the clocks of `zone`."""

    start: time
    end: time
    """May be earlier than `start`: then it is the next day's."""
    zone: ZoneInfo
    breaks_through: Severity = Severity.CRITICAL
    """What is at least this severe is told all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where some events are told."""

    id: str
    org_id: str
    """Whose it is: it is told of that organisation's events only. Empty: the operators', of everybody's."""
    name: str
    channel: Channel
    shown_target: str
    """What may be shown of the target: an address of mail, or an URL's host."""
    kinds: tuple[str, ...]
    """Empty: all."""
    min_severity: Severity
    quiet: QuietHours | None
    gather_s: int
    """The next message of a kind comes so much later than the last: what happens between goes into one."""
    enabled: bool
    revision: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is secret of a route, and is kept sealed."""

    address: str = field(repr=False)
    """An URL, or an address of mail."""
    secret: str = field(default="", repr=False)
    """Signs webhooks: `whsec_` and 24 to 64 bytes in base64. Empty: the channel has none."""
    old_secret: str = field(default="", repr=False)
    """The secret before the last change of it."""
    old_until: float = 0.0
    """Until when both sign, in seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, as a source tells it."""

    key: str
    """The same event has the same key, however often and by whomever it is told."""
    kind: str
    severity: Severity
    org_id: str
    """Empty: it is the operators' business."""
    at: datetime
    title: str
    text: str
    """In words, for people. Never a secret."""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is sent at a time: the events of one kind that gathered for a route. The same for every attempt."""

    delivery_id: str
    kind: str
    severity: Severity
    at: datetime
    """When the first of its events was taken up."""
    count: int
    """Of all events, of which `events` are the first."""
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A delivery that is to be tried, with all that it takes."""

    message: Message
    route: Route
    sealed: bytes
    epoch: int
    attempt: int
    """1 for the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of a message."""

    id: str
    route_id: str
    org_id: str
    kind: str
    severity: Severity
    count: int
    state: State
    attempts: int
    last_error: str
    created_at: datetime
    due_at: datetime
    ended_at: datetime | None
