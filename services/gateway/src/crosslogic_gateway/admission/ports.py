"""What admission needs of the world."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from crosslogic_gateway.domain import HardBudget


@dataclass(frozen=True, slots=True)
class Used:
    """What one key or environment, or the organisation, used in a stretch of time that ended `age_us` ago."""

    layer: Literal["key", "env", "org"]
    owner_id: str
    unit: Literal["minute", "hour", "day"]
    """The window that it belongs to."""
    age_us: int
    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What a budget's period has cost so far."""

    period_name: str
    """`YYYY-MM` or `YYYY-MM-DD`."""
    picodollars: int


@dataclass(frozen=True, slots=True)
class Settled:
    """What the ledger says of one request."""

    prompt_tokens: int
    completion_tokens: int
    cost_picodollars: int


class Ledger(Protocol):
    """The truth of what was used. Every method raises CodedError UNAVAILABLE or TIMEOUT when it is away."""

    async def used(self, org_id: str) -> list[Used]:
        """What the organisation used lately, for every window."""

    async def spent(self, org_id: str, budgets: Sequence[HardBudget]) -> list[Spent]:
        """What is spent of each budget."""

    async def settled(self, org_id: str, request_id: str) -> Settled | None:
        """What a request used. None: nothing is known of it."""
