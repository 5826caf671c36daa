"""The words of settling usage."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One row of the usage ledger, as far as billing needs it."""

    sequence: int
    request_id: str
    org_id: str
    model: str
    price_version: str
    start_time: datetime
    charged: bool
    """Whether it was charged at all: a request that failed or timed out is not."""
    prompt_tokens: int
    cached_prompt_tokens: int
    """Of the prompt tokens."""
    completion_tokens: int
    prompt_price: int
    """Pico-dollars, as are the next two."""
    cached_prompt_price: int
    completion_price: int
    cost_picodollars: int
    """As the ledger has it."""
    sign: int
    """1, or -1: a reversal."""


class Bucket(NamedTuple):
    """Tokens of one price in one window."""

    org_id: str
    window_start: datetime
    model: str
    category: str
    price: int


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of the ledger, in its order."""

    rows: tuple[UsageRow, ...]
    last_sequence: int
    """Of the whole ledger when it was read."""
