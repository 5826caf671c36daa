"""The ledger's decisions, pure: what a request costs, which of two records stands, what a correction writes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from itertools import pairwise

from crosslogic_accountant.domain import Counts, LedgerRow, Outcome, UsageRecord

MAX_PRICE_PICODOLLARS = 10**12
MAX_TOKENS = 2**31 - 1
MAX_AGE_MS = 35 * 86_400_000
"""Older requests are refused: Stripe takes no usage that is older than 35 days."""
MAX_AHEAD_MS = 86_400_000
"""Requests from further ahead are refused: no gateway's clock is that wrong, and partitions are made in time."""

_MONTH_NAME = re.compile(r"usage_records_(?P<year>[0-9]{4})_(?P<month>[0-9]{2})")
# Plain numbers: they hash in a tenth of an enum's time, and this is asked of every record.
_CHARGED = frozenset({int(Outcome.SUCCEEDED), int(Outcome.CLIENT_DISCONNECTED)})


def cost_picodollars(
    counts: Counts, outcome: int, prompt_price: int, completion_price: int, cached_prompt_price: int | None = None
) -> int:
    """What a request costs, exactly. A request that failed or timed out costs nothing.

    Prices are pico-dollars a token. A client that went away pays for what was generated until the engine was stopped.
    Prompt tokens that a prefix cache held have their own price, or with None that of any prompt token.
    """
    if outcome not in _CHARGED:
        return 0
    cost = counts.prompt_tokens * prompt_price + counts.completion_tokens * completion_price
    if cached_prompt_price is not None:
        cost += counts.cached_prompt_tokens * (cached_prompt_price - prompt_price)
    return cost


def time_problem(request_ms: int, now_ms: int) -> str:
    """Why a request id of this time cannot be stored; empty if it can. Milliseconds since the epoch."""
    if request_ms < now_ms - MAX_AGE_MS:
        return "`request_id` is older than 35 days."
    if request_ms > now_ms + MAX_AHEAD_MS:
        return "`request_id` is more than a day ahead."
    return ""


def counts_problem(counts: Counts) -> str:
    """Why these counts cannot be true; empty if they can."""
    if counts.prompt_tokens > MAX_TOKENS or counts.completion_tokens > MAX_TOKENS:
        return "A count of tokens is above 2^31-1."
    if counts.cached_prompt_tokens > counts.prompt_tokens:
        return "`cached_prompt_tokens` is above `prompt_tokens`."
    return ""


def above_honest_total(counts: Counts, max_total_tokens: int) -> bool:
    """Whether more was counted than the request could use. 0: its bound is unknown."""
    return 0 < max_total_tokens < counts.prompt_tokens + counts.completion_tokens


def settles(outcome: int, counts: Counts) -> bool:
    """Whether a witness whose request no gateway reported becomes a record.

    One that costs nothing does not: the gateway may have had nothing to report (the engine refused the body), or may
    still be serving the request on another node.
    """
    return outcome in _CHARGED and counts.prompt_tokens + counts.completion_tokens > 0


class Verdict(Enum):
    """What becomes of a record whose request is in the ledger already."""

    SAME = "same"
    """It is a repetition: acknowledged, not stored."""
    KEEP = "keep"
    """It says something else, and the stored record stands."""
    CORRECT = "correct"
    """It takes the stored record's place."""


def judge(stored: UsageRecord, new: UsageRecord) -> Verdict:
    """The gateway's word stands over a witness's; otherwise the first one stands."""
    if stored.from_witness and not new.from_witness:
        return Verdict.CORRECT
    if new.from_witness or stored == new:
        return Verdict.SAME
    return Verdict.KEEP


def correction(stored: LedgerRow, new: UsageRecord) -> tuple[LedgerRow, LedgerRow]:
    """The rows that put `new` in the place of the effective row `stored`: its reversal and the replacement."""
    reversal = LedgerRow(stored.record, revision=stored.revision + 1, corrects=stored.revision, requests=-1)
    replacement = LedgerRow(new, revision=stored.revision + 2, corrects=stored.revision)
    return reversal, replacement


@dataclass(frozen=True, slots=True)
class MonthRange:
    """A month's partition: requests from `low_ms` up to `high_ms`, milliseconds since the epoch."""

    name: str
    low_ms: int
    high_ms: int


def months_to_prepare(now: datetime, months_ahead: int) -> list[MonthRange]:
    """The partitions that must exist: from the oldest request that is taken to `months_ahead` months on."""
    oldest = datetime.fromtimestamp(now.timestamp() - MAX_AGE_MS / 1000, UTC)
    first = oldest.year * 12 + oldest.month - 1
    last = now.year * 12 + now.month - 1 + months_ahead
    starts = [datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in range(first, last + 2)]
    return [
        MonthRange(f"usage_records_{low:%Y_%m}", round(low.timestamp() * 1000), round(high.timestamp() * 1000))
        for low, high in pairwise(starts)
    ]


def months_to_drop(names: Iterable[str], now: datetime, keep_months: int) -> list[tuple[str, datetime]]:
    """Partitions of months that ended `keep_months` months ago or earlier, and when they ended. 0: none, ever."""
    if not keep_months:
        return []
    first_kept = now.year * 12 + now.month - 1 - keep_months
    found: list[tuple[str, datetime]] = []
    for name in sorted(names):
        match = _MONTH_NAME.fullmatch(name)
        if match is None:
            continue
        month = int(match["year"]) * 12 + int(match["month"]) - 1
        if month < first_kept:
            found.append((name, datetime((month + 1) // 12, (month + 1) % 12 + 1, 1, tzinfo=UTC)))
    return found


@dataclass(frozen=True, slots=True)
class WitnessRing:
    """When which slot of the ring of witnesses is filled and when it is due; times are seconds since the epoch.

    A slot is due once its time is over by the grace time, and until it is filled again. A wrong clock costs delay,
    never a witness: whoever empties a slot checks the age of what lies in it.
    """

    grace_s: float
    slots: int = 16

    @property
    def slot_s(self) -> float:
        """For how long a slot is filled: the whole ring is 3.2 grace times long."""
        return max(self.grace_s / 5, 0.1)

    def filling(self, now_s: float) -> int:
        """The slot that is filled at `now_s`."""
        return int(now_s / self.slot_s) % self.slots

    def due(self, now_s: float) -> list[int]:
        """The slots to be emptied at `now_s`, longest over first."""
        turn = int(now_s / self.slot_s)
        recent = int(self.grace_s / self.slot_s) + 1
        return [past % self.slots for past in range(turn - self.slots + 1, turn - recent + 1)]
