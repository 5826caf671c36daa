"""Prices, protobuf to domain and back."""

from datetime import UTC, datetime
from fractions import Fraction
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_billing.prices import policy
from crosslogic_billing.prices.book import Book
from crosslogic_billing.prices.domain import Market, NewPrices, PriceVersion, TokenPrices
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode

_LAST_SECOND = 253_402_300_799
"""Of the year 9999."""


def new_prices(request: pb.CreatePricesRequest, now: datetime) -> NewPrices:
    """What is asked for. Raises INVALID_ARGUMENT."""
    return NewPrices(
        model=request.model,
        plan=request.plan,
        category=request.category,
        base=TokenPrices(
            request.base.prompt_picodollars,
            request.base.cached_prompt_picodollars,
            request.base.completion_picodollars,
            request.base.embedding_picodollars,
        ),
        discount=read_ratio(request.discount, "discount") if request.HasField("discount") else Fraction(0),
        markets=tuple(request.markets),
        effective_from=read_time(request.effective_from, "effective_from")
        if request.HasField("effective_from")
        else now,
        request_id=read_request_id(request.request_id),
    )


def price_version(version: PriceVersion) -> pb.PriceVersion:
    """A version in the contract's words."""
    return pb.PriceVersion(
        id=version.id,
        model=version.model,
        market=version.market,
        plan=version.plan,
        category=version.category,
        base=_token_prices(version.base),
        multiplier=ratio(version.multiplier),
        discount=ratio(version.discount),
        prices=_token_prices(version.prices),
        effective_from=timestamp(version.effective_from),
        effective_to=None if version.effective_to is None else timestamp(version.effective_to),
        create_time=timestamp(version.created_at),
    )


def watched(book: Book) -> pb.WatchPricesResponse:
    """The whole book."""
    return pb.WatchPricesResponse(
        versions=[price_version(version) for version in book.versions],
        markets=[_market(market) for market in book.markets],
    )


def ratio(value: Fraction) -> pb.Ratio:
    """A fraction in the contract's words."""
    return pb.Ratio(numerator=value.numerator, denominator=value.denominator)


def read_ratio(message: pb.Ratio, name: str) -> Fraction:
    """A fraction. Raises INVALID_ARGUMENT."""
    if message.numerator > policy.MAX_RATIO_PART or not 1 <= message.denominator <= policy.MAX_RATIO_PART:
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT,
            f"`{name}` needs a denominator of 1 to {policy.MAX_RATIO_PART} and no larger numerator than that.",
            param=name,
        )
    return Fraction(message.numerator, message.denominator)


def read_time(stamp: Timestamp, name: str) -> datetime:
    """A time. Raises INVALID_ARGUMENT outside 1970 to 9999."""
    if not 0 <= stamp.seconds <= _LAST_SECOND or not 0 <= stamp.nanos < 10**9:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` must be between 1970 and 9999.", param=name)
    return stamp.ToDatetime(tzinfo=UTC)


def read_request_id(text: str) -> str:
    """A call's id, or nothing. Raises INVALID_ARGUMENT."""
    if not text:
        return ""
    try:
        return str(UUID(text))
    except ValueError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`request_id` must be a UUID.", param="request_id") from None


def _token_prices(prices: TokenPrices) -> pb.TokenPrices:
    return pb.TokenPrices(
        prompt_picodollars=prices.prompt,
        cached_prompt_picodollars=prices.cached_prompt,
        completion_picodollars=prices.completion,
        embedding_picodollars=prices.embedding,
    )


def _market(market: Market) -> pb.Market:
    return pb.Market(name=market.name, multiplier=ratio(market.multiplier), region_prefixes=market.region_prefixes)
