"""What tokens cost: rounding, markets, and what a new version may say."""

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_billing.prices.domain import Market, NewPrices, TokenPrices
from crosslogic_billing.prices.policy import MAX_PRICE_PICODOLLARS, check_new, market_of, rated
from crosslogic_common.errors import CodedError, ErrorCode

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MARKETS = (
    Market("usa", Fraction(1), ("", "us")),
    Market("eu", Fraction(11, 10), ("eu",)),
    Market("india", Fraction(7, 10), ("in", "ap-south")),
    Market("apac", Fraction(9, 10), ("ap",)),
)
PRICES = st.integers(0, MAX_PRICE_PICODOLLARS)
RATIOS = st.fractions(0, 5, max_denominator=1_000_000)


def new_prices(**changes: object) -> NewPrices:
    asked: dict[str, object] = {
        "model": "llama-3-8b",
        "plan": "",
        "category": "",
        "base": TokenPrices(50_000, 50_000, 50_000, 50_000),
        "discount": Fraction(0),
        "markets": (),
        "effective_from": NOW,
        "request_id": "",
    }
    return NewPrices(**{**asked, **changes})  # type: ignore[arg-type]


@given(PRICES, RATIOS, st.fractions(0, 1, max_denominator=1_000_000))
def test_a_price_is_rounded_once_and_as_banks_round(price: int, multiplier: Fraction, discount: Fraction) -> None:
    exact = price * multiplier * (1 - discount)
    result = rated(TokenPrices(price, price, price, price), multiplier, discount).prompt
    assert abs(result - exact) <= Fraction(1, 2)
    if abs(result - exact) == Fraction(1, 2):
        assert result % 2 == 0


@pytest.mark.parametrize(("price", "expected"), [(5, 2), (15, 8), (25, 12), (35, 18)])
def test_halves_go_to_the_even_neighbour_so_that_nobody_is_favoured(price: int, expected: int) -> None:
    assert rated(TokenPrices(price, 0, 0, 0), Fraction(1, 2), Fraction(0)).prompt == expected
    assert int((Decimal(price) / 2).quantize(Decimal(1), ROUND_HALF_EVEN)) == expected


@pytest.mark.parametrize(
    ("region", "market"),
    [
        ("us-east", "usa"),
        ("us", "usa"),
        ("local", "usa"),
        ("", "usa"),
        ("eu-west-1", "eu"),
        ("europe", "usa"),
        ("ap-south-1", "india"),
        ("ap-southeast-1", "apac"),
        ("in-1", "india"),
        ("indiana", "usa"),
    ],
)
def test_a_region_has_the_prices_of_its_part_of_the_world(region: str, market: str) -> None:
    assert market_of(region, MARKETS).name == market


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"model": ""}, ErrorCode.INVALID_ARGUMENT, "model"),
        ({"model": "a\0b"}, ErrorCode.INVALID_ARGUMENT, "model"),
        ({"plan": "p" * 101}, ErrorCode.INVALID_ARGUMENT, "plan"),
        ({"category": "Llama 3"}, ErrorCode.INVALID_ARGUMENT, "category"),
        ({"base": TokenPrices(0, 0, 10**12 + 1, 0)}, ErrorCode.INVALID_ARGUMENT, "base"),
        ({"discount": Fraction(11, 10)}, ErrorCode.INVALID_ARGUMENT, "discount"),
        ({"markets": ("eu", "eu")}, ErrorCode.INVALID_ARGUMENT, "markets"),
        ({"effective_from": NOW - timedelta(hours=1)}, ErrorCode.CONFLICT, "effective_from"),
    ],
)
def test_a_version_that_makes_no_sense_is_refused_by_its_field(
    changes: dict[str, object], code: ErrorCode, field: str
) -> None:
    with pytest.raises(CodedError) as refused:
        check_new(new_prices(**changes), NOW)
    assert (refused.value.code, refused.value.param) == (code, field)
