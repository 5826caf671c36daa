"""The words of exporting."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

Unit = Literal["tokens", "picodollars"]
UNITS: tuple[Unit, ...] = ("tokens", "picodollars")
State = Literal["pending", "delivered", "dead"]
How = Literal["accepted", "duplicate", "in_summary", "by_hand"]


@dataclass(frozen=True, slots=True)
class Window:
    """A window of one organisation."""

    org_id: str
    start: datetime
    length_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterEvent:
    """One meter event of the outbox."""

    id: int
    identifier: str
    org_id: str
    customer_id: str
    event_name: str
    category: str
    unit: Unit
    month: date
    window_start: datetime
    """The event's time."""
    revision: int
    part: int
    value: int
    state: State
    delivered_how: How | None
    attempts: int
    unknown_since: datetime | None
    """The first attempt since which Stripe may have it without our knowing."""
    last_error: str
    created_at: datetime
    last_attempt_at: datetime | None
    delivered_at: datetime | None
    set_aside: bool = False
    """Others of its lane have gone past it. Known of events about to be sent."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A customer and a meter, leased: the holder alone may call."""

    customer_id: str
    event_name: str
    lease_id: str
    failures: int
    subscription_id: str = ""
    """The customer's. Empty: it has none."""

    @property
    def unit(self) -> Unit:
        """What its events count."""
        return "picodollars" if self.event_name.endswith("_picodollars") else "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """What a customer is given back of a month, leased: the holder alone gives it."""

    id: str
    org_id: str
    customer_id: str
    month: date
    category: str
    cents: int
    attempts: int
    """The present one too."""
    answered: int
    """Of those before, how many Stripe has answered with a failure."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """Stripe has the event."""

    how: How


@dataclass(frozen=True, slots=True)
class Rejected:
    """Stripe will never take the event as it is."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """It may work later."""

    reason: str
    unknown: bool
    """Stripe may have it all the same."""
    ours: bool = False
    """The fault lies with our configuration and not with the event."""


@dataclass(frozen=True, slots=True)
class Hour:
    """What is known here of what Stripe should have summed for a customer, a meter and an hour."""

    surely: int
    """What was delivered so long ago that Stripe has added it up."""
    perhaps: tuple[int, ...] = ()
    """Values of other events that may be in Stripe's sum: delivered lately, or of unknown outcome."""


Outcome = Delivered | Rejected | Retry
