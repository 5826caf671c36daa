"""Settles the usage ledger: each of its rows counts in its window once."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from crosslogic_billing.metrics import BillingMetrics
from crosslogic_billing.prices.policy import DEFAULT_CATEGORY
from crosslogic_billing.usage import policy
from crosslogic_billing.usage.domain import UsageRow
from crosslogic_billing.usage.ports import Ledger, UsageStore
from crosslogic_billing.work import work_for_ever
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger

PAGE_ROWS = 5_000
IDLE_S = 1.0
_MAX_CATEGORIES = 50_000


class Settler:
    """Reads page after page; a page and the cursor are stored together, so that a crash repeats or loses none."""

    def __init__(self, *, ledger: Ledger, store: UsageStore, metrics: BillingMetrics, window_s: int) -> None:
        """`window_s` divides 900."""
        self._ledger = ledger
        self._store = store
        self._metrics = metrics
        self._window_s = window_s
        # Versions are immutable: what was read once stays true.
        self._categories: OrderedDict[str, str] = OrderedDict()
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Settles for ever; waits while there is nothing new or a neighbour is away."""
        await work_for_ever(self.settle_page, name=__name__, trouble="usage not settled, trying again", idle_s=IDLE_S)

    async def settle_all(self) -> None:
        """Settles until nothing is left."""
        while await self.settle_page():
            pass

    async def settle_page(self) -> bool:
        """One page. Whether more waits."""
        after = await self._store.cursor()
        page = await self._ledger.read(after, PAGE_ROWS)
        self._metrics.ledger_behind(page.last_sequence - after)
        if not page.rows:
            return False
        rows = in_sequence(page.rows, after)
        categories = await self._categories_of(rows)
        counted = policy.buckets(rows, categories, DEFAULT_CATEGORY, self._window_s)
        upto = rows[-1].sequence
        free = policy.uncharged(rows, self._window_s)
        if await self._store.add(after=after, upto=upto, counted=counted, uncharged=free, window_s=self._window_s):
            self._count(rows)
        return upto < page.last_sequence

    async def _categories_of(self, rows: Sequence[UsageRow]) -> dict[str, str]:
        wanted = {row.price_version for row in rows if row.price_version}
        known = {id_: self._categories[id_] for id_ in wanted if id_ in self._categories}
        missing = sorted(wanted - known.keys())
        if missing:
            found = await self._store.categories(missing)
            self._categories.update(found)
            known.update(found)
            while len(self._categories) > _MAX_CATEGORIES:
                self._categories.popitem(last=False)
        return known

    def _count(self, rows: Iterable[UsageRow]) -> None:
        tokens = cost = wrong = 0
        for row in rows:
            if row.charged and row.sign > 0:
                tokens += row.prompt_tokens + row.completion_tokens
                cost += row.cost_picodollars
            wrong += row.cost_picodollars != policy.cost_of(row)
        self._metrics.settled(tokens=tokens, cost_picodollars=cost)
        if wrong:
            self._metrics.cost_differs(wrong)
            self._log.error("rows whose cost is not what their counts and prices say", rows=wrong)


def in_sequence(rows: Sequence[UsageRow], after: int) -> Sequence[UsageRow]:
    """The rows, if each has the number after the one before.

    A gap would be usage that nobody pays for: it stops settling until somebody has looked.
    """
    for expected, row in enumerate(rows, start=after + 1):
        if row.sequence != expected:
            raise CodedError(
                ErrorCode.INTERNAL, private=f"row {row.sequence} of the ledger came where {expected} was due"
            )
    return rows
