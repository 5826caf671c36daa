"""The price book over mutual TLS, on real PostgreSQL."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import psycopg
import pytest

from crosslogic.billing.v1 import billing_pb2 as pb
from tests.fakes.billing_world import Billing


@pytest.fixture
async def billing(pg_url: str) -> AsyncIterator[Billing]:
    with tempfile.TemporaryDirectory() as folder:
        async with Billing(folder=Path(folder), pg_url=pg_url).running() as running:
            yield running


def prices(amount: int) -> pb.TokenPrices:
    return pb.TokenPrices(
        prompt_picodollars=amount,
        cached_prompt_picodollars=amount // 2,
        completion_picodollars=amount,
        embedding_picodollars=amount,
    )


async def test_the_first_price_table_is_there_in_every_market(billing: Billing) -> None:
    listed = await billing.stub().ListPrices(pb.ListPricesRequest(page_size=1000))
    seeded = {(v.model, v.market): v.prices.prompt_picodollars for v in listed.versions if not v.plan}
    assert {
        model: [seeded[model, market] for market in ("usa", "eu", "india", "apac")]
        for model in ("llama-3-8b", "llama-3-70b", "qwen-2.5", "gemma-7b")
    } == {
        "llama-3-8b": [50_000, 55_000, 35_000, 45_000],
        "llama-3-70b": [600_000, 660_000, 420_000, 540_000],
        "qwen-2.5": [40_000, 44_000, 28_000, 36_000],
        "gemma-7b": [30_000, 33_000, 21_000, 27_000],
    }


async def test_a_new_price_ends_the_old_one_where_it_begins_and_reaches_gateways(billing: Billing) -> None:
    watch = billing.stub("gateway").WatchPrices(pb.WatchPricesRequest())
    async with asyncio.timeout(30):
        first = await watch.read()
        assert {market.name for market in first.markets} == {"usa", "eu", "india", "apac"}
        noon = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        request = pb.CreatePricesRequest(
            model="priced", base=prices(1_000), request_id="7d1f9a3e-0000-4000-8000-00000000000a"
        )
        made = await billing.stub().CreatePrices(request)
        again = await billing.stub().CreatePrices(request)
        assert made == again
        later = pb.CreatePricesRequest(model="priced", base=prices(2_000), markets=["eu"])
        later.effective_from.FromDatetime(noon)
        (newer,) = (await billing.stub().CreatePrices(later)).versions
        while True:
            book = await watch.read()
            lines = [v for v in book.versions if v.model == "priced" and v.market == "eu"]
            if len(lines) == 2:
                break
    watch.cancel()
    assert lines[0].effective_to == lines[1].effective_from == newer.effective_from
    assert [v.prices.prompt_picodollars for v in lines] == [1_100, 2_200]
    assert not lines[1].HasField("effective_to")


async def test_a_second_version_from_the_same_moment_is_refused(billing: Billing) -> None:
    request = pb.CreatePricesRequest(model="twice", base=prices(1_000))
    request.effective_from.FromDatetime(datetime.now(UTC) + timedelta(hours=2))
    await billing.stub().CreatePrices(request)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await billing.stub().CreatePrices(request)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_two_operators_at_once_never_put_two_prices_in_force(billing: Billing, pg_url: str) -> None:
    soon = datetime.now(UTC) + timedelta(hours=3)

    def asked(minutes: int) -> pb.CreatePricesRequest:
        request = pb.CreatePricesRequest(model="raced", base=prices(1_000 + minutes))
        request.effective_from.FromDatetime(soon + timedelta(minutes=minutes))
        return request

    await asyncio.gather(*(billing.stub().CreatePrices(asked(minutes)) for minutes in range(8)), return_exceptions=True)
    async with await psycopg.AsyncConnection.connect(pg_url, options="-c search_path=billing") as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM price_versions a JOIN price_versions b ON a.line = b.line AND a.id < b.id "
            "AND a.effective && b.effective"
        )
        assert await cursor.fetchone() == (0,)
        cursor = await connection.execute(
            "SELECT count(*) FILTER (WHERE upper_inf(effective)), count(DISTINCT line) FROM price_versions"
        )
        row = await cursor.fetchone()
        assert row is not None
        assert row[0] == row[1]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE price_versions SET rated_prompt = 1",
        "UPDATE price_versions SET effective = tstzrange(lower(effective), now() - '5 min'::interval) WHERE line < 17",
        "UPDATE price_versions SET effective = tstzrange(lower(effective), NULL) WHERE NOT upper_inf(effective)",
        "DELETE FROM price_versions",
        "TRUNCATE price_versions",
    ],
)
async def test_nobody_rewrites_what_was_charged(billing: Billing, pg_url: str, statement: str) -> None:
    made = pb.CreatePricesRequest(model=f"fixed {statement[:20]} {len(statement)}", base=prices(1_000))
    await billing.stub().CreatePrices(made)
    made.effective_from.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    await billing.stub().CreatePrices(made)
    async with await psycopg.AsyncConnection.connect(pg_url, options="-c search_path=billing") as connection:
        with pytest.raises(psycopg.errors.RestrictViolation):
            await connection.execute(statement)


async def test_only_gateways_and_operators_are_told_prices(billing: Billing) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await billing.stub("scheduler").ListPrices(pb.ListPricesRequest())
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await billing.stub("operator").WatchPrices(pb.WatchPricesRequest()).read()
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
