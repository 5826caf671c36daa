"""What a worker knows of one key's limits from the last answer of Redis. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from crosslogic_gateway.admission.limits import CONCURRENCY, PICO_PER_NANO, Spec
from crosslogic_gateway.admission.refusals import HeaderLines
from crosslogic_gateway.domain import HardBudget, Principal

KNOWN_FOR_S = 60.0
"""How long what Redis last counted says something."""
ROOM = 2
"""A request goes on while Redis is asked where so many times what is used would still be within each limit."""
_REQUEST_KINDS = frozenset({0, 1, CONCURRENCY})


@dataclass(slots=True)
class View:
    """What is kept for one key."""

    principal: Principal
    budgets: tuple[HardBudget, ...]
    spec: Spec
    headers: HeaderLines
    totals: Sequence[int] | None = None
    """As of the last answer: two numbers, then one a counter, then nano-dollars, one a budget."""
    totals_at: float = 0.0
    lines: str = ""
    """The headers that tell of them."""
    growth: Sequence[int] | None = None
    """The answer before: what others use between two of this worker's requests."""
    crowded: bool = False
    """A request was refused that was thought to have room; until one is let in again, none goes on early."""

    def has_room(self, now: float, *, tokens: int, nanodollars: int) -> bool:
        """Whether a request is all but certain to be let in: most of each limit was free when it was last heard of."""
        totals = self.totals
        if totals is None or self.crowded or now - self.totals_at >= KNOWN_FOR_S:
            return False
        spec = self.spec
        for counter, used in zip(spec.counters, totals[2:], strict=False):
            wanted = 1 if counter.kind_index in _REQUEST_KINDS else tokens
            if (used + wanted) * ROOM > counter.limit:
                return False
        return all(
            (used + nanodollars) * ROOM * PICO_PER_NANO <= budget.limit_picodollars
            for budget, used in zip(spec.budgets, totals[2 + len(spec.counters) :], strict=True)
        )
