"""Telling operators that a hard budget is running out. Its owners are told by the accountant, once and durably."""

from collections import OrderedDict
from collections.abc import Callable

from crosslogic_common.logs import get_logger
from crosslogic_gateway.admission.limits import PICO_PER_NANO
from crosslogic_gateway.domain import HardBudget

THRESHOLDS_PERCENT = (50, 80, 100)
ANEW_PERCENT = 25
MAX_BUDGETS = 50_000


class BudgetAlerts:
    """Notices when what is spent and held passes a share of the limit. One a worker: each tells once."""

    def __init__(self, *, passed: Callable[[str, HardBudget, int], None]) -> None:
        """`passed` is called with the organisation, the budget and each threshold that is passed, in percent."""
        self._passed = passed
        self._told: OrderedDict[str, int] = OrderedDict()
        self._log = get_logger(__name__)

    def seen(self, org_id: str, budget: HardBudget, used_nanodollars: int) -> None:
        """So much of the budget is spent and held."""
        percent = used_nanodollars * PICO_PER_NANO * 100 // max(1, budget.limit_picodollars)
        if percent < THRESHOLDS_PERCENT[0]:
            # Well below, it started anew or was raised; just below, what was held was given back.
            if self._told and percent < ANEW_PERCENT:
                self._told.pop(budget.id, None)
            return
        told = self._told.get(budget.id, 0)
        for threshold in THRESHOLDS_PERCENT:
            if told < threshold <= percent:
                self._passed(org_id, budget, threshold)
                self._log.warning(
                    "hard budget", org_id=org_id, budget=budget.id, period=budget.period, reached_percent=threshold
                )
                told = threshold
        self._told[budget.id] = told
        if len(self._told) > MAX_BUDGETS:
            self._told.popitem(last=False)
