"""Protobuf to domain and back."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic.billing.v1 import billing_pb2_grpc as rpc
from crosslogic_billing.prices import wire
from crosslogic_billing.prices.book import PriceBook
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import page_limit, page_start, page_token

Context = grpc.aio.ServicerContext[Any, Any]


class BillingServicer(rpc.BillingServiceServicer):
    """BillingService."""

    def __init__(self, *, prices: PriceBook, clock: Clock) -> None:
        self._prices = prices
        self._clock = clock

    async def CreatePrices(self, request: pb.CreatePricesRequest, context: Context) -> pb.CreatePricesResponse:
        made = await self._prices.add(wire.new_prices(request, self._clock.now()))
        return pb.CreatePricesResponse(versions=[wire.price_version(version) for version in made])

    async def ListPrices(self, request: pb.ListPricesRequest, context: Context) -> pb.ListPricesResponse:
        limit = page_limit(request.page_size)
        found = await self._prices.page(no_zero(request.model, "model"), page_start(request.page_token), limit + 1)
        return pb.ListPricesResponse(
            versions=[wire.price_version(version) for version in found[:limit]],
            next_page_token=page_token([version.id for version in found], limit),
        )

    async def WatchPrices(
        self, request: pb.WatchPricesRequest, context: Context
    ) -> AsyncIterator[pb.WatchPricesResponse]:
        async with contextlib.aclosing(self._prices.watch()) as books:
            async for book in books:
                yield wire.watched(book)


def no_zero(text: str, name: str) -> str:
    """The text. Raises INVALID_ARGUMENT for a zero byte, which PostgreSQL does not take."""
    if "\0" in text:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` holds a zero byte.", param=name)
    return text
