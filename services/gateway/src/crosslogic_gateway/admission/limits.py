"""What is limited, by how much, and under which names Redis counts it. Pure."""

from dataclasses import dataclass
from typing import Literal

import msgspec

from crosslogic_gateway.domain import HardBudget, Limits, Principal

Layer = Literal["key", "environment", "org", "global"]
Counted = Literal["requests", "tokens", "concurrency"]

LAYERS: tuple[Layer, ...] = ("key", "environment", "org")
"""In the order in which they are asked."""
NO_LIMIT = -1
PICO_PER_NANO = 1000
MAX_NANODOLLARS = 2**53 - 1
"""Redis' scripts count in doubles: above this a dollar's billionth would be lost. Nine million dollars."""
LEASE_MS = 8_000
"""A worker that has not been heard of for so long is dead: what its requests hold is given back."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of sliding window."""

    counted: Counted
    unit: str
    window_us: int
    buckets: int
    """The window slides in this many steps: one step is what it may be too long by."""

    @property
    def prefix(self) -> str:
        """How the names of its counters begin."""
        return "tokens" if self.counted == "tokens" else "ratelimit"


def kinds(scale: float = 1.0) -> tuple[Kind, ...]:
    """Every kind of window, in the order of Limits' fields. `scale` shortens them all, for tests of whole windows."""
    second, minute, hour, day = (round(length_s * 1e6 * scale) for length_s in (1, 60, 3600, 86400))
    return (
        Kind("requests", "second", second, 20),
        Kind("requests", "minute", minute, 120),
        Kind("tokens", "second", second, 20),
        Kind("tokens", "minute", minute, 120),
        Kind("tokens", "hour", hour, 120),
        Kind("tokens", "day", day, 144),
    )


CONCURRENCY = 6
"""The place of the concurrency behind the kinds."""
REQUESTS_MINUTE = 1
TOKENS_MINUTE = 3
QUOTA_KINDS = frozenset({4, 5})
"""Tokens an hour and a day: a quota that is used up, not a rate that is too high."""


def limit_numbers(limits: Limits) -> tuple[int, ...]:
    """One number a kind, and the concurrency; NO_LIMIT for none."""
    return tuple(
        NO_LIMIT if limit is None else limit
        for limit in (
            limits.requests_per_second,
            limits.requests_per_minute,
            limits.tokens_per_second,
            limits.tokens_per_minute,
            limits.tokens_per_hour,
            limits.tokens_per_day,
            limits.concurrency,
        )
    )


@dataclass(frozen=True, slots=True)
class Counter:
    """One number that a request is held to."""

    layer: Layer
    layer_index: int
    """From 0: key, environment, org."""
    kind_index: int
    """From 0; CONCURRENCY for that."""
    owner_id: str
    limit: int


@dataclass(frozen=True, slots=True, eq=False)
class Spec:
    """All that one principal's requests are held to."""

    org_id: str
    counters: tuple[Counter, ...]
    """In the order in which the script tells of them."""
    budgets: tuple[HardBudget, ...]
    packed: msgspec.Raw
    """As the script reads it."""
    counts_tokens: bool
    """Tokens or money are limited: a request's tokens must be estimated."""
    holds: bool
    """Something must be given back or settled at a request's end."""


def nanodollars(picodollars: int) -> int:
    """Rounded up, so that what is held is never less than what will be charged."""
    return min(-(-picodollars // PICO_PER_NANO), MAX_NANODOLLARS)


def make_spec(principal: Principal, budgets: tuple[HardBudget, ...] = ()) -> Spec:
    """The spec of a principal. `budgets` are those that are known beside the principal's own."""
    every_budget = _unique((*principal.hard_budgets, *budgets))
    owners = (principal.api_key_id, principal.environment_id, principal.org_id)
    numbers = tuple(
        limit_numbers(limits) for limits in (principal.key_limits, principal.environment_limits, principal.org_limits)
    )
    counters = tuple(
        Counter(LAYERS[layer], layer, kind, owners[layer], limit)
        for layer in range(len(LAYERS))
        for kind, limit in enumerate(numbers[layer])
        if limit != NO_LIMIT
    )
    counts_tokens = bool(every_budget) or any(2 <= counter.kind_index < CONCURRENCY for counter in counters)  # noqa: PLR2004  # tokens' kinds
    packed = msgspec.msgpack.encode(
        (
            principal.api_key_id,
            principal.environment_id,
            *numbers,
            [
                (budget.id, budget.period, min(budget.limit_picodollars // PICO_PER_NANO, MAX_NANODOLLARS))
                for budget in every_budget
            ],
        )
    )
    return Spec(
        org_id=principal.org_id,
        counters=counters,
        budgets=every_budget,
        packed=msgspec.Raw(packed),
        counts_tokens=counts_tokens,
        holds=counts_tokens or any(counter.kind_index == CONCURRENCY for counter in counters),
    )


def _unique(budgets: tuple[HardBudget, ...]) -> tuple[HardBudget, ...]:
    """Each budget once; of two with one id the smaller sum stands."""
    by_id: dict[str, HardBudget] = {}
    for budget in budgets:
        known = by_id.get(budget.id)
        if known is None or budget.limit_picodollars < known.limit_picodollars:
            by_id[budget.id] = budget
    return tuple(by_id.values())
