"""The words of reconciliation."""

from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True, slots=True)
class Line:
    """Two numbers that should be one."""

    what: str
    unit: str
    left: int
    right: int
    explanation: str = ""
    """Empty: they are the same, or nothing explains it."""
    org_id: str = ""
    category: str = ""

    @property
    def unexplained(self) -> bool:
        """Whether somebody has to look."""
        return self.left != self.right and not self.explanation


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTotals:
    """What the accountant says of a period."""

    requests: int
    tokens: int
    cost: int
    """Pico-dollars."""
    rollup_requests: int
    rollup_tokens: int
    rollup_cost: int
    from_witnesses: int
    """Requests settled from a node's count because no gateway reported them."""
    witness_differences: int
    rollup_differences: int
    open_witnesses: int
    corrections: int
    last_sequence: int
    rolled_up_sequence: int


@dataclass(frozen=True, slots=True)
class WindowTotals:
    """What our windows say of a period."""

    charged_tokens: int
    uncharged_tokens: int
    cost: int
    settled_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthTotals:
    """One category of one organisation's month, from usage to outbox."""

    org_id: str
    month: date
    category: str
    unit: str
    in_windows: int
    """By windows that are closed; tokens only, 0 for pico-dollars."""
    in_month: int
    """What the month comes to."""
    exported: int
    """What the month remembers to have exported."""
    credited: int
    """What of it was given back, pico-dollars."""
    in_credits: int
    """What the outbox of credits holds for it, pico-dollars."""
    in_outbox: int
    """What the outbox holds for it."""
    why_not: str
    """Why not everything is exported; empty: nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterTotals:
    """One customer and meter over a period, at Stripe and here."""

    org_id: str
    customer_id: str
    event_name: str
    at_stripe: int
    delivered: int
    lately: int
    """Of it, delivered so lately that Stripe may not have added it up."""
    pending: int
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditTotals:
    """One customer's credits, here and at Stripe, in cents."""

    org_id: str
    customer_id: str
    given: int
    waiting: int
    last_error: str
    """Of one that waits. Empty: there is none, or nothing went wrong."""
    at_stripe: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A reconciliation."""

    id: str
    from_day: date
    to_day: date
    created_at: datetime
    lines: tuple[Line, ...]
    missing: tuple[str, ...]
    unexplained: int
    signed_by: str = ""
    signed_note: str = ""
    signed_at: datetime | None = None
