"""What a month's usage is charged, pure.

A charge is a function of the month's totals: how many tokens were used at which price. So it does not depend on the
order in which records come, on when they come, or on how often they were corrected, and what is exported is the
difference to what was exported before (ADR 28). Free tokens are the dearest ones of the month. That favours the
customer, and it has a use: further usage can only displace free tokens, never make one free that was charged, so a
charge never falls as usage grows.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from crosslogic_billing.rating.domain import (
    CategoryCharge,
    Mode,
    Overage,
    Posting,
    Priced,
    Statement,
    Terms,
    Tier,
    Usage,
)
from crosslogic_common.errors import CodedError, ErrorCode

MAX_TIERS = 20
MAX_UNITS = 1_000_000
MAX_MONEY_PICODOLLARS = 10**24
"""A trillion dollars."""
PICODOLLARS_A_CENT = 10**10
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+\-/]{0,63}")


def month_of(moment: datetime, time_zone: str) -> date:
    """The first day of the month that a moment falls in, where the organisation is."""
    local = moment.astimezone(ZoneInfo(time_zone))
    return date(local.year, local.month, 1)


def month_bounds(month: date, time_zone: str) -> tuple[datetime, datetime]:
    """When a month begins and ends there, in UTC."""
    zone = ZoneInfo(time_zone)
    following = date(month.year + month.month // 12, month.month % 12 + 1, 1)
    begins = datetime(month.year, month.month, 1, tzinfo=zone)
    ends = datetime(following.year, following.month, 1, tzinfo=zone)
    return begins.astimezone(UTC), ends.astimezone(UTC)


def window_of(moment: datetime, length_s: int) -> datetime:
    """Start of the window that a moment falls in.

    Lengths divide 900 s, and every zone's months begin at a quarter of an hour: no window lies in two months.
    """
    seconds = int(moment.timestamp())
    return datetime.fromtimestamp(seconds - seconds % length_s, UTC)


def merged(parts: Iterable[Usage]) -> dict[Priced, int]:
    """All parts together, without empty buckets."""
    total: dict[Priced, int] = {}
    for part in parts:
        for bucket, tokens in part.items():
            total[bucket] = total.get(bucket, 0) + tokens
    return {bucket: tokens for bucket, tokens in total.items() if tokens}


def without_free(usage: Usage, free_tokens: int) -> dict[Priced, int]:
    """What is left when so many of the dearest tokens are free; of equal prices the first category's go first.

    A bucket below zero, where a reversal came before what it reverses, counts as empty.
    """
    left: dict[Priced, int] = {}
    for bucket in sorted(usage, key=lambda bucket: (-bucket.price_picodollars, bucket.category)):
        tokens = max(usage[bucket], 0)
        taken = min(tokens, free_tokens)
        free_tokens -= taken
        if tokens > taken:
            left[bucket] = tokens - taken
    return left


def above_reserved(usage: Usage, units: int, length_s: int) -> dict[Priced, int]:
    """What one model used in a window beyond its reserved capacity: a unit is a token a second."""
    return without_free(usage, units * length_s)


def statement(month: date, terms: Terms, usage: Usage, *, months_fee: bool = True) -> Statement:
    """The month's charges for what it used (for reserved capacity: beyond it).

    `months_fee`: the month's fee for reserved capacity is part of it.
    """
    billable = without_free(usage, free_tokens(terms))
    names = sorted({bucket.category for bucket, tokens in usage.items() if tokens > 0})
    categories = tuple(_category(name, terms, usage, billable) for name in names)
    charged = sum(category.charge_picodollars for category in categories)
    cap = terms.monthly_cap_picodollars
    return Statement(
        month=month,
        categories=categories,
        capped_picodollars=0 if cap is None else max(charged - cap, 0),
        fee_picodollars=monthly_fee(terms) if months_fee else 0,
    )


def monthly_fee(terms: Terms) -> int:
    """What reserved capacity costs a month, used or not: each part of the month in proportion, rounded once."""
    if not terms.spans:
        return sum(terms.reserved_units.values()) * terms.unit_fee_picodollars if terms.mode == "reserved" else 0
    return round(
        sum(
            (
                span.share * sum(span.reserved_units.values()) * span.unit_fee_picodollars
                for span in terms.spans
                if span.mode == "reserved"
            ),
            Fraction(0),
        )
    )


def free_tokens(terms: Terms) -> int:
    """Of the month: serverless only, in proportion where it was so for a part of it, rounded down."""
    if not terms.spans:
        return terms.free_tokens if terms.mode == "serverless" else 0
    # Of the time that the organisation was there: one that is new has all of them.
    serverless = sum((span.share for span in terms.spans if span.mode == "serverless"), Fraction(0))
    return int(terms.free_tokens * serverless / sum((span.share for span in terms.spans), Fraction(0)))


def billable(terms: Terms, window_start: datetime, length_s: int, used: Mapping[tuple[str, Priced], int]) -> Usage:
    """What a window adds to what its month is charged for, from its usage by model and price.

    The window goes by what held when it began. Reserved capacity covers each model by itself; what goes beyond is
    charged, or, where it is shed, costs nothing.
    """
    mode, overage, units = _capacity_at(terms, window_start, length_s)
    if mode != "reserved":
        return merged({bucket: tokens} for (_, bucket), tokens in used.items())
    if overage == "shed":
        return {}
    return merged(
        above_reserved(
            {bucket: tokens for (name, bucket), tokens in used.items() if name == model}, units.get(model, 0), length_s
        )
        for model in {model for model, _ in used}
    )


def _capacity_at(terms: Terms, window_start: datetime, length_s: int) -> tuple[Mode, Overage, Mapping[str, int]]:
    """What held when a window began. One in which identity's first word came goes by that; one before, by the token."""
    if not terms.spans:
        return terms.mode, terms.overage, terms.reserved_units
    begun = [span for span in terms.spans if span.begins <= window_start]
    if not begun and terms.spans[0].begins >= window_start + timedelta(seconds=length_s):
        return "serverless", "bill", {}
    span = begun[-1] if begun else terms.spans[0]
    return span.mode, span.overage, span.reserved_units


def _category(name: str, terms: Terms, usage: Usage, billable: Usage) -> CategoryCharge:
    used = {bucket: tokens for bucket, tokens in usage.items() if bucket.category == name and tokens > 0}
    left = {bucket: tokens for bucket, tokens in billable.items() if bucket.category == name}
    tokens = sum(used.values())
    return CategoryCharge(
        category=name,
        tokens=tokens,
        free_tokens=tokens - sum(left.values()),
        list_picodollars=sum(bucket.price_picodollars * count for bucket, count in used.items()),
        # The only rounding of a month: once a category, to the nearest pico-dollar, halves to the even one.
        charge_picodollars=round(_tiered(left, terms.tiers) * (1 - terms.discount)),
    )


def _tiered(usage: Usage, tiers: Sequence[Tier]) -> Fraction:
    """What tokens cost by tiers: the dearest are the first, so that no later token lowers what earlier ones cost."""
    steps = [Tier(0, Fraction(1)), *tiers]
    total = Fraction(0)
    counted = 0
    at = 0
    for bucket in sorted(usage, key=lambda bucket: -bucket.price_picodollars):
        left = usage[bucket]
        while left:
            room = steps[at + 1].from_tokens - counted if at + 1 < len(steps) else left
            taken = min(left, room)
            total += taken * bucket.price_picodollars * steps[at].share
            counted += taken
            left -= taken
            if at + 1 < len(steps) and counted >= steps[at + 1].from_tokens:
                at += 1
    return total


def exportable(target: Mapping[str, int], exported: Mapping[str, int], cap: int | None) -> dict[str, int]:
    """What is still to be exported of each category's charge, none below zero, all within the cap.

    `target` is what the month's categories come to before the cap, `exported` what was handed over for it. After a
    correction a category may be ahead of its target: then nothing is exported until it has been caught up with, or what
    is too much was given back.
    """
    room = None if cap is None else max(cap - sum(exported.values()), 0)
    owed: dict[str, int] = {}
    for category in sorted(target):
        amount = max(target[category] - exported.get(category, 0), 0)
        if room is not None:
            amount = min(amount, room)
            room -= amount
        if amount:
            owed[category] = amount
    return owed


def creditable(target: Mapping[str, int], exported: Mapping[str, int], cap: int | None) -> dict[str, int]:
    """What was exported of each category and is not owed, in whole cents, rounded down.

    As `exportable`, the other way round: after a correction, or where a cap was agreed on afterwards.
    """
    over = {category: max(told - target.get(category, 0), 0) for category, told in exported.items()}
    if cap is not None:
        left = sum(exported.values()) - sum(over.values()) - cap
        for category in sorted(exported):
            taken = min(max(left, 0), exported[category] - over[category])
            over[category] += taken
            left -= taken
    return {category: cents for category, amount in over.items() if (cents := amount - amount % PICODOLLARS_A_CENT)}


def adjustment(charged: Statement) -> list[Posting]:
    """What the money ledger is told of a month: it has usage at its prices; this is the difference and the fee."""
    difference = charged.total_picodollars - charged.list_picodollars
    if not difference:
        return []
    return [Posting("receivable", difference), Posting("revenue", -difference)]


def split_prepaid(charge_picodollars: int, credit_picodollars: int) -> list[Posting]:
    """How a charge is paid: from prepaid credit first, what is left is owed."""
    from_credit = min(charge_picodollars, max(credit_picodollars, 0))
    lines = [
        Posting("prepaid", from_credit),
        Posting("receivable", charge_picodollars - from_credit),
        Posting("revenue", -charge_picodollars),
    ]
    return [line for line in lines if line.amount_picodollars]


def check_terms(terms: Terms) -> Terms:
    """The same, if they make sense. Raises INVALID_ARGUMENT."""
    if not 0 <= terms.discount <= 1:
        raise _invalid("discount", "must be 0 to 1")
    if not 0 <= terms.free_tokens <= 10**15:
        raise _invalid("free_tokens", "must be 0 to 10^15")
    if len(terms.tiers) > MAX_TIERS:
        raise _invalid("tiers", f"has more than {MAX_TIERS} steps")
    before = Tier(0, Fraction(1))
    for tier in terms.tiers:
        if tier.from_tokens <= before.from_tokens or not 0 <= tier.share <= before.share:
            raise _invalid("tiers", "must begin later and later, above 0, and cost no more than the one before")
        before = tier
    cap = terms.monthly_cap_picodollars
    if (cap is not None and not 0 <= cap <= MAX_MONEY_PICODOLLARS) or not (
        0 <= terms.unit_fee_picodollars <= MAX_MONEY_PICODOLLARS
    ):
        raise _invalid("monthly_cap_picodollars", "and the fee must be 0 to 10^24")
    if any(not 0 <= units <= MAX_UNITS for units in terms.reserved_units.values()):
        raise _invalid("reserved_units", f"must be 0 to {MAX_UNITS}")
    if not _ZONE.fullmatch(terms.time_zone) or not _known_zone(terms.time_zone):
        raise _invalid("time_zone", "must be a name of the time zone database, for example `Asia/Kolkata`")
    return terms


def _known_zone(name: str) -> bool:
    try:
        offset = datetime(2026, 1, 1, tzinfo=ZoneInfo(name)).utcoffset()
    except (KeyError, ValueError, OSError):
        return False
    # Windows are cut at quarters of an hour.
    return offset is not None and offset % timedelta(minutes=15) == timedelta(0)


def _invalid(field: str, text: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` {text}.", param=field)
