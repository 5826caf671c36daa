"""Hard budgets without Redis: this worker's share of what the ledger says is left."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admission.limits import Spec
from crosslogic_gateway.admission.local import Share
from crosslogic_gateway.admission.ports import Ledger
from crosslogic_gateway.admission.refusals import budget_refusal
from crosslogic_gateway.domain import HardBudget

READ_AGAIN_S = 2.0
READ_TIMEOUT_S = 1.0
LEDGER_LAG_S = 5.0
"""What was settled longer ago is in the ledger, or the ledger is away and nothing is let in."""
TOLD_FOR_S = 2 * LEDGER_LAG_S
"""Then the ledger knows all that Redis had last counted, and what of it was held and never spent is free."""
MAX_BUDGETS = 50_000


@dataclass(slots=True)
class _State:
    held: int = 0
    """Pico-dollars held by this worker's requests."""
    settled: int = 0
    """Pico-dollars settled in the stretch that began at `stretch_at`, at most LEDGER_LAG_S long ..."""
    settled_before: int = 0
    """... and in the one before."""
    stretch_at: float = 0.0
    left: int | None = None
    """Of the limit, when the ledger was read."""
    read_at: float = 0.0
    told: int = 0
    """Pico-dollars spent and held by everybody, when Redis was last heard of ..."""
    told_at: float = -math.inf
    given: int = 0
    """... and what this worker has let in without it since."""

    def lately_settled(self, now: float) -> int:
        """Pico-dollars that the ledger may not have yet."""
        if now - self.stretch_at > LEDGER_LAG_S:
            self.settled_before = self.settled if now - self.stretch_at <= 2 * LEDGER_LAG_S else 0
            self.settled, self.stretch_at = 0, now
        return self.settled + self.settled_before


class LocalBudgets:
    """One a worker. Cheap while Redis answers: it only keeps count of what this worker holds."""

    def __init__(self, *, ledger: Ledger, share: Callable[[], Share], monotonic: Callable[[], float]) -> None:
        """`monotonic` is a clock in seconds."""
        self._ledger = ledger
        self._share = share
        self._monotonic = monotonic
        self._states: OrderedDict[str, _State] = OrderedDict()

    def began(self, spec: Spec, cost_picodollars: int, *, by_share: bool) -> None:
        """A request may cost this."""
        for budget in spec.budgets:
            state = self._state(budget)
            state.held += cost_picodollars
            if by_share:
                state.given += cost_picodollars

    def told(self, budget: HardBudget, used_picodollars: int) -> None:
        """Redis says that so much is spent and held by everybody: the ledger hears of it seconds later."""
        state = self._state(budget)
        state.told, state.told_at, state.given = used_picodollars, self._monotonic(), 0

    def ended(self, spec: Spec, held_picodollars: int, cost_picodollars: int) -> None:
        """A request cost this."""
        now = self._monotonic()
        for budget in spec.budgets:
            state = self._state(budget)
            state.held = max(0, state.held - held_picodollars)
            state.lately_settled(now)
            state.settled += cost_picodollars

    async def check(self, spec: Spec, cost_picodollars: int) -> None:
        """Returns when this worker's share of every budget covers a request.

        Raises RefusedError BUDGET_EXCEEDED when one does not, UNAVAILABLE when nobody can say what is spent.
        """
        if not spec.budgets or not cost_picodollars:
            return
        now = self._monotonic()
        if any(state.left is None or now - state.read_at > READ_AGAIN_S for state in map(self._state, spec.budgets)):
            await self._read(spec)
        workers = self._share().workers
        for budget in spec.budgets:
            state = self._state(budget)
            now = self._monotonic()
            used = state.held + state.lately_settled(now)
            if used + cost_picodollars > max(0, state.left or 0) // workers:
                raise budget_refusal(budget.scope, budget.period)
            left = budget.limit_picodollars - state.told
            if now - state.told_at < TOLD_FOR_S and state.given + cost_picodollars > max(0, left) // workers:
                raise budget_refusal(budget.scope, budget.period)

    async def _read(self, spec: Spec) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                spent = await self._ledger.spent(spec.org_id, spec.budgets)
        except (CodedError, TimeoutError) as error:
            raise CodedError(
                ErrorCode.UNAVAILABLE, private=f"nobody can say what is spent: {error}", retry_after_s=1.0
            ) from None
        for budget, found in zip(spec.budgets, spent, strict=True):
            state = self._state(budget)
            state.left = budget.limit_picodollars - found.picodollars
            state.read_at = self._monotonic()

    def _state(self, budget: HardBudget) -> _State:
        state = self._states.get(budget.id)
        if state is None:
            state = self._states[budget.id] = _State()
            if len(self._states) > MAX_BUDGETS:
                self._states.popitem(last=False)
        return state
