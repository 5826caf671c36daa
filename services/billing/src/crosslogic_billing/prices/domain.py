"""The words of the price book."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """Pico-dollars of one token of each kind, 0 to 10^12."""

    prompt: int
    cached_prompt: int
    completion: int
    embedding: int

    def each(self, change: Callable[[int], int]) -> "TokenPrices":
        """The same with every price changed."""
        return TokenPrices(
            change(self.prompt), change(self.cached_prompt), change(self.completion), change(self.embedding)
        )


@dataclass(frozen=True, slots=True)
class Market:
    """A part of the world with prices of its own."""

    name: str
    multiplier: Fraction
    region_prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceVersion:
    """What a model's tokens cost in one market, under one plan, from `effective_from` until `effective_to`."""

    id: str
    model: str
    market: str
    plan: str
    """Empty: every plan that has no version of its own."""
    category: str
    base: TokenPrices
    multiplier: Fraction
    discount: Fraction
    prices: TokenPrices
    """base x multiplier x (1 - discount), rounded once."""
    effective_from: datetime
    effective_to: datetime | None
    """None: for ever."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPrices:
    """What a version is made from, in each of some markets."""

    model: str
    plan: str
    category: str
    """Empty: as the model's newest version has it."""
    base: TokenPrices
    discount: Fraction
    markets: tuple[str, ...]
    """Empty: all."""
    effective_from: datetime
    request_id: str
    """Empty: not repeatable."""
