"""Exact money: pico-dollars (10^-12 dollars) to decimal strings and back. No floats."""

import re

PICODOLLARS_PER_DOLLAR = 10**12
TOKENS_PER_PRICE = 10**6
MAX_PRICE_PICODOLLARS = 10**12
"""Of one token: a dollar."""

_DIGITS = 12
_DECIMAL = re.compile(r"(?P<whole>[0-9]{1,10})(?:\.(?P<fraction>[0-9]{1,30}))?", re.ASCII)


def usd(picodollars: int) -> str:
    """Dollars, exact, without trailing zeros: 50,000 pico-dollars are `0.00000005`."""
    sign = "-" if picodollars < 0 else ""
    whole, fraction = divmod(abs(picodollars), PICODOLLARS_PER_DOLLAR)
    decimals = f"{fraction:0{_DIGITS}d}".rstrip("0")
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def usd_per_million(picodollars_per_token: int) -> str:
    """A token's price as dollars for a million tokens, exact."""
    return usd(picodollars_per_token * TOKENS_PER_PRICE)


def picodollars_per_token(usd_per_million_tokens: str) -> int:
    """A price in dollars for a million tokens as pico-dollars a token.

    Raises ValueError, fit to be shown, when it is no decimal number, no whole number of pico-dollars, or above a dollar
    a token.
    """
    match = _DECIMAL.fullmatch(usd_per_million_tokens)
    if match is None:
        raise ValueError("expected a decimal number such as `0.05`")
    # One dollar a million tokens is 10^12 / 10^6 = 10^6 pico-dollars a token: the sixth decimal is the last.
    fraction = (match["fraction"] or "").rstrip("0")
    if len(fraction) > 6:  # noqa: PLR2004  # see above
        raise ValueError("is not a whole number of pico-dollars a token: at most 6 decimals")
    price = int(match["whole"]) * TOKENS_PER_PRICE + int(fraction.ljust(6, "0") or "0")
    if price > MAX_PRICE_PICODOLLARS:
        raise ValueError("is more than 1000000 dollars for a million tokens")
    return price


def picodollars_of(usd_text: str) -> int:
    """Dollars as pico-dollars, exact. The text is a decimal number with at most 12 decimals."""
    whole, _, fraction = usd_text.partition(".")
    return int(whole) * PICODOLLARS_PER_DOLLAR + int(fraction.ljust(_DIGITS, "0") or "0")
