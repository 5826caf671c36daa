"""The words of rating."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from fractions import Fraction
from typing import Literal, NamedTuple

Mode = Literal["serverless", "reserved"]
Overage = Literal["shed", "bill"]
Collection = Literal["invoice", "prepaid"]

FREE_TOKENS_A_MONTH = 25_000


class Priced(NamedTuple):
    """Tokens that cost the same and are billed as the same: a bucket of a month's usage."""

    category: str
    price_picodollars: int


Usage = Mapping[Priced, int]
"""Tokens by bucket."""


@dataclass(frozen=True, slots=True)
class Tier:
    """From so many tokens of a category in a month on, a token costs this share of its price."""

    from_tokens: int
    share: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a month in which an organisation's plan and capacity stayed as they were, by identity's word."""

    begins: datetime
    ends: datetime
    share: Fraction
    """Of the month's time."""
    plan: str
    mode: Mode
    overage: Overage
    reserved_units: Mapping[str, int]
    unit_fee_picodollars: int
    """Of one capacity unit, a month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an organisation and we have agreed on, for a month and those after it."""

    mode: Mode = "serverless"
    collection: Collection = "invoice"
    """Prepaid: its credit is spent in the money ledger, and nothing is charged through the provider."""
    free_tokens: int = FREE_TOKENS_A_MONTH
    """A month. Counts for serverless only."""
    discount: Fraction = Fraction(0)
    """Taken off what usage costs, after tiers."""
    tiers: tuple[Tier, ...] = ()
    """By `from_tokens`, shares never rising. Below the first one a token costs its price."""
    monthly_cap_picodollars: int | None = None
    """Usage costs no more than this in a month. None: there is no cap."""
    reserved_units: Mapping[str, int] = field(default_factory=dict)
    """Capacity units by model: guaranteed tokens a second."""
    unit_fee_picodollars: int = 0
    """Of one capacity unit, a month."""
    overage: Overage = "bill"
    """What happens to tokens above reserved capacity. Shed ones that slipped through cost nothing."""
    time_zone: str = "UTC"
    """Where its months begin at midnight."""
    spans: tuple[Span, ...] = ()
    """The month's parts, one after the other until its end; mode, units, overage and fee above are the last one's.
    None: what is said above holds for all of it."""


@dataclass(frozen=True, slots=True)
class CategoryCharge:
    """What one category's usage comes to."""

    category: str
    tokens: int
    """All of them."""
    free_tokens: int
    list_picodollars: int
    """At their prices, the free ones too."""
    charge_picodollars: int
    """After free tokens, tiers and discount; rounded once."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A month of one organisation."""

    month: date
    """Its first day."""
    categories: tuple[CategoryCharge, ...]
    """By name."""
    capped_picodollars: int
    """What the cap takes off."""
    fee_picodollars: int
    """For reserved capacity."""

    @property
    def list_picodollars(self) -> int:
        """What the usage would cost at its prices."""
        return sum(category.list_picodollars for category in self.categories)

    @property
    def usage_picodollars(self) -> int:
        """What the usage is charged."""
        return sum(category.charge_picodollars for category in self.categories) - self.capped_picodollars

    @property
    def total_picodollars(self) -> int:
        """Usage and fee."""
        return self.usage_picodollars + self.fee_picodollars


@dataclass(frozen=True, slots=True)
class Posting:
    """One line of a transfer: a debit, or below 0 a credit."""

    account: Literal["receivable", "prepaid", "revenue"]
    amount_picodollars: int
