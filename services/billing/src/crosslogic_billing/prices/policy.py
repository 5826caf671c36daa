"""What tokens cost, pure: rounding, markets, and what a new price version may say."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction

from crosslogic_billing.prices.domain import Market, NewPrices, PriceVersion, TokenPrices
from crosslogic_common.errors import CodedError, ErrorCode

MAX_PRICE_PICODOLLARS = 10**12
MAX_RATIO_PART = 1_000_000
DEFAULT_CATEGORY = "standard"
RESERVED_CATEGORY = "reserved"
"""Fees for reserved capacity are billed as this; no model is."""
CLOCK_SLACK = timedelta(minutes=1)
"""Between an operator's clock and ours."""
_CATEGORY = re.compile(r"[a-z0-9_]{1,40}")
_MAX_MODEL_CHARS = 200
_MAX_PLAN_CHARS = 100


def rated(base: TokenPrices, multiplier: Fraction, discount: Fraction) -> TokenPrices:
    """Base x multiplier x (1 - discount) in whole pico-dollars.

    Exact until the end and rounded once, to the nearest whole number, halves to the even one (IEEE 754's
    roundTiesToEven, as banks round): over many versions it neither favours us nor the customer.
    """
    factor = multiplier * (1 - discount)
    return base.each(lambda price: round(price * factor))


def market_of(region: str, markets: Iterable[Market]) -> Market:
    """The market with the longest prefix that is the region, or that the region begins with before a `-`.

    Raises INVALID_ARGUMENT when none fits, which the empty prefix of one market rules out.
    """
    best: tuple[int, Market] | None = None
    for market in markets:
        for prefix in market.region_prefixes:
            fits = not prefix or region == prefix or region.startswith(prefix + "-")
            if fits and (best is None or len(prefix) > best[0]):
                best = (len(prefix), market)
    if best is None:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"The region `{region[:63]}` is in no market.", param="region")
    return best[1]


def check_new(asked: NewPrices, now: datetime) -> NewPrices:
    """The same, if it makes sense. Raises INVALID_ARGUMENT, or CONFLICT for a time that is past."""
    if not 1 <= len(asked.model) <= _MAX_MODEL_CHARS or not asked.model.isprintable():
        raise _invalid("model", f"must have 1 to {_MAX_MODEL_CHARS} printable characters")
    if len(asked.plan) > _MAX_PLAN_CHARS or (asked.plan and not asked.plan.isprintable()):
        raise _invalid("plan", f"must have at most {_MAX_PLAN_CHARS} printable characters")
    if asked.category and not _CATEGORY.fullmatch(asked.category):
        raise _invalid("category", "must be 1 to 40 of a-z, 0-9 and _")
    if asked.category == RESERVED_CATEGORY:
        raise _invalid(
            "category", f"must not be `{RESERVED_CATEGORY}`, which is what fees for reserved capacity are billed as"
        )
    base = asked.base
    if max(base.prompt, base.cached_prompt, base.completion, base.embedding) > MAX_PRICE_PICODOLLARS:
        raise _invalid("base", "has a price above a dollar a token")
    if not 0 <= asked.discount <= 1:
        raise _invalid("discount", "must be 0 to 1")
    if len(set(asked.markets)) != len(asked.markets):
        raise _invalid("markets", "names a market twice")
    if asked.effective_from < now - CLOCK_SLACK:
        raise CodedError(
            ErrorCode.CONFLICT, "`effective_from` is past: what was rated stays rated.", param="effective_from"
        )
    return asked


def check_follows(version: PriceVersion, begins: datetime) -> None:
    """Raises CONFLICT unless a version that begins then comes after `version`, the line's newest."""
    if version.effective_to is not None or version.effective_from >= begins:
        raise CodedError(
            ErrorCode.CONFLICT,
            f"A version of this model, market and plan begins at {version.effective_from.isoformat()}: "
            "a new one must begin later.",
            param="effective_from",
        )


def chosen_markets(names: Sequence[str], markets: Sequence[Market]) -> list[Market]:
    """The markets by name; all of them when none is named. Raises INVALID_ARGUMENT for one that is not known."""
    known = {market.name: market for market in markets}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise _invalid("markets", f"names `{unknown[0][:40]}`; there are {', '.join(sorted(known))}")
    return [known[name] for name in names] or list(markets)


def _invalid(field: str, text: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` {text}.", param=field)
