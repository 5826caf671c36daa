"""Money that is written or read inexactly is money lost."""

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_gateway.admin.money import MAX_PRICE_PICODOLLARS, picodollars_per_token, usd, usd_per_million


@given(st.integers(min_value=-(10**40), max_value=10**40))
def test_a_sum_of_any_size_is_shown_to_the_last_picodollar(picodollars: int) -> None:
    with localcontext() as context:
        context.prec = 80
        assert Decimal(usd(picodollars)) * 10**12 == picodollars
    assert "E" not in usd(picodollars)


@given(st.integers(min_value=0, max_value=MAX_PRICE_PICODOLLARS))
def test_a_price_shown_in_dollars_and_sent_back_is_the_same_price(price: int) -> None:
    assert picodollars_per_token(usd_per_million(price)) == price


@pytest.mark.parametrize(
    ("text", "price"),
    [("0.05", 50_000), ("0", 0), ("15", 15_000_000), ("0.0375", 37_500), ("0.000001", 1), ("1.50000000", 1_500_000)],
)
def test_dollars_for_a_million_tokens_become_exact_picodollars(text: str, price: int) -> None:
    assert picodollars_per_token(text) == price


@pytest.mark.parametrize(
    "text", ["0.0000001", "-1", "1e3", "", ".5", "1.", "NaN", "1,5", "1000000.1", "99999999999", "٣", " 1", "1\n"]
)
def test_a_price_that_is_not_a_whole_number_of_picodollars_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|whole|more"):
        picodollars_per_token(text)


def test_the_design_pages_example_reads_as_written() -> None:
    assert usd_per_million(50_000) == "0.05"
    assert usd(0) == "0"
    assert usd(-1) == "-0.000000000001"
