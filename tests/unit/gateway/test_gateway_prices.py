"""What a request is charged a token, at the moment it is admitted."""

from datetime import UTC, datetime, timedelta

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_gateway.domain import Model
from crosslogic_gateway.prices import MAX_KNOWN, Prices, Rate

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
LLAMA = Model("llama", "llama", 8192, 111, 222, frozenset(), 0)
MARKETS = [
    pb.Market(name="usa", region_prefixes=["", "us"]),
    pb.Market(name="india", region_prefixes=["in", "ap-south"]),
    pb.Market(name="apac", region_prefixes=["ap"]),
]


def us(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def version(
    id_: str, price: int, *, market: str = "usa", plan: str = "", begins: datetime = NOON, ends: datetime | None = None
) -> pb.PriceVersion:
    made = pb.PriceVersion(
        id=id_,
        model="llama",
        market=market,
        plan=plan,
        prices=pb.TokenPrices(
            prompt_picodollars=price,
            cached_prompt_picodollars=price // 10,
            completion_picodollars=price * 2,
            embedding_picodollars=price // 2,
        ),
    )
    made.effective_from.FromDatetime(begins)
    if ends is not None:
        made.effective_to.FromDatetime(ends)
    return made


def rate_at(prices: Prices, moment: datetime, *, region: str = "us-east", plan: str = "", api: str = "") -> Rate:
    return prices.rate(model=LLAMA, region=region, plan=plan, api=api, now_us=us(moment))


def test_without_a_book_the_catalogues_price_counts_and_no_version_is_claimed() -> None:
    assert rate_at(Prices(), NOON) == Rate("", 111, None, 222, 0)


def test_a_price_change_at_noon_splits_requests_to_the_microsecond() -> None:
    prices = Prices()
    old = version("old", 10, begins=NOON - timedelta(days=1), ends=NOON)
    prices.replace([old, version("new", 20)], MARKETS)
    before = NOON - timedelta(microseconds=1)
    assert [rate_at(prices, moment).version for moment in (before, NOON, before, NOON)] == ["old", "new", "old", "new"]


def test_a_plans_own_price_goes_before_the_models() -> None:
    prices = Prices()
    prices.replace([version("all", 10), version("gold", 5, plan="gold")], MARKETS)
    assert [rate_at(prices, NOON, plan=plan).version for plan in ("", "silver", "gold")] == ["all", "all", "gold"]


def test_a_region_pays_its_markets_price() -> None:
    prices = Prices()
    prices.replace([version("usa", 10), version("india", 7, market="india")], MARKETS)
    regions = ("us-east", "local", "in-1", "ap-south-1", "ap-east-1")
    assert [rate_at(prices, NOON, region=region).version for region in regions] == ["usa", "usa", "india", "india", ""]


def test_an_embedded_token_has_its_own_price() -> None:
    prices = Prices()
    prices.replace([version("v", 10)], MARKETS)
    assert rate_at(prices, NOON, api="/v1/embeddings") == Rate("v", 5, 5, 20, 5)
    assert rate_at(prices, NOON, api="/v1/chat/completions") == Rate("v", 10, 1, 20, 5)


def test_a_new_book_takes_effect_at_once() -> None:
    prices = Prices()
    prices.replace([version("first", 10)], MARKETS)
    assert rate_at(prices, NOON).version == "first"
    prices.replace([version("second", 20)], MARKETS)
    assert rate_at(prices, NOON).version == "second"


def test_memory_stays_bounded_however_many_plans_are_made_up() -> None:
    prices = Prices()
    prices.replace([version("v", 10)], MARKETS)
    for number in range(MAX_KNOWN + 10):
        rate_at(prices, NOON, plan=str(number))
    assert len(prices._known) <= MAX_KNOWN
