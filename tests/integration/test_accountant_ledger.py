"""The ledger on a real PostgreSQL: what is acknowledged is there, once, at the right price."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.resources import files

import psycopg
import pytest
from crosslogic_accountant.ledger_store import LedgerStore
from crosslogic_accountant.metrics import LedgerMetrics
from crosslogic_accountant.partitions import PartitionKeeper
from crosslogic_accountant.ports import PreparedRecord, Stored
from crosslogic_accountant.usage_queries import Filter, Group, UsageQueries
from crosslogic_accountant.writer_connection import WriterConnection
from crosslogic_common.clock import SystemClock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Pool, migrate, open_pool
from prometheus_client import CollectorRegistry

from tests.fakes.accountant_samples import prepared, request_uuid, sample_context, sample_record, sample_usage


@pytest.fixture
async def ledger_url(pg_url: str) -> str:
    await migrate(pg_url, schema="ledger", migrations=files("crosslogic_accountant.migrations"))
    keeper = PartitionKeeper(
        connection=WriterConnection(dsn=pg_url, schema="ledger", timeout_s=10),
        clock=SystemClock(),
        metrics=LedgerMetrics(CollectorRegistry()),
    )
    await keeper.prepare()
    await keeper.close()
    return pg_url


@pytest.fixture
async def pool(ledger_url: str) -> AsyncIterator[Pool]:
    async with open_pool(ledger_url, schema="ledger", max_size=2) as opened:
        yield opened


@pytest.fixture
async def store(ledger_url: str) -> AsyncIterator[LedgerStore]:
    opened = new_store(ledger_url)
    yield opened
    await opened.close()


def new_store(url: str) -> LedgerStore:
    return LedgerStore(
        connection=WriterConnection(dsn=url, schema="ledger", timeout_s=10),
        metrics=LedgerMetrics(CollectorRegistry()),
    )


def as_witness(item: PreparedRecord) -> PreparedRecord:
    from crosslogic_accountant.copy_format import usage_row
    from crosslogic_accountant.domain import LedgerRow

    record = replace(item.record, from_witness=True, http_status=0, time_to_first_token_us=0)
    return PreparedRecord(record, usage_row(LedgerRow(record)))


async def test_a_record_reads_back_as_it_was_reported(store: LedgerStore, pool: Pool) -> None:
    message = sample_record(usage=sample_usage(prompt=2**31 - 1, completion=2**31 - 1, cached=7))
    message.context.prompt_price_picodollars = 10**12
    message.context.completion_price_picodollars = 10**12 - 1
    message.context.model = 'odd "name"\twith \\ and ü'
    assert await store.commit([prepared(message)]) == [Stored()]
    records, token = await UsageQueries(pool=pool).records(
        Filter(request_id=request_uuid(message)), limit=10, token=""
    )
    assert [listed.row.record for listed in records] == [prepared(message).record]
    assert records[0].row.record.cost_picodollars == (2**31 - 1) * (2 * 10**12 - 1)
    assert token == ""


async def test_a_repeated_record_is_charged_once_and_acknowledged_each_time(store: LedgerStore, pool: Pool) -> None:
    context = sample_context(model="repeated")
    item = prepared(sample_record(context))
    other = prepared(sample_record(sample_context(model="repeated")))
    assert await store.commit([item, item]) == [Stored(), Stored(duplicate=True)]
    assert await store.commit([other, item]) == [Stored(), Stored(duplicate=True)]
    assert await store.commit([item]) == [Stored(duplicate=True)]
    (row,), _ = await UsageQueries(pool=pool).sums(Filter(model="repeated"), [], limit=1, token="")
    assert (row.requests, row.prompt_tokens, row.completion_tokens) == (2, 200, 40)
    assert row.cost_picodollars == 2 * (100 * 50_000 + 20 * 70_000)


async def test_two_writers_with_the_same_records_in_any_order_charge_each_once(ledger_url: str, pool: Pool) -> None:
    items = [prepared(sample_record(sample_context(model="raced"))) for _ in range(200)]
    stores = [new_store(ledger_url) for _ in range(4)]
    answers = await asyncio.gather(
        *(
            one.commit(part)
            for one, part in zip(stores, (items, items[::-1], items[50:], items[:150]), strict=True)
        )
    )
    for one in stores:
        await one.close()
    flat = [answer for part in answers for answer in part]
    assert all(isinstance(answer, Stored) for answer in flat)
    assert sum(answer == Stored() for answer in flat) == 200
    (row,), _ = await UsageQueries(pool=pool).sums(Filter(model="raced"), [], limit=1, token="")
    assert row.requests == 200


async def test_one_record_that_the_database_refuses_takes_no_other_with_it(store: LedgerStore, pool: Pool) -> None:
    items = [prepared(sample_record(sample_context(model="isolated"))) for _ in range(9)]
    bad = prepared(sample_record(sample_context(model="isolated-bad")))
    items.insert(4, PreparedRecord(bad.record, bad.row.replace(b"isolated-bad", b"isolated\0bad")))
    answers = await store.commit(items)
    assert [isinstance(answer, CodedError) for answer in answers] == [number == 4 for number in range(10)]
    refused = answers[4]
    assert isinstance(refused, CodedError)
    assert refused.code is ErrorCode.INVALID_ARGUMENT
    (row,), _ = await UsageQueries(pool=pool).sums(Filter(model="isolated"), [], limit=1, token="")
    assert row.requests == 9


async def test_the_gateways_late_word_takes_the_place_of_a_settled_witness(store: LedgerStore, pool: Pool) -> None:
    context = sample_context(model="corrected")
    settled = as_witness(prepared(sample_record(context, sample_usage(completion=50))))
    late_context = sample_context(model="corrected", request_id=context.request_id, region="us")
    late = prepared(sample_record(late_context, sample_usage(completion=48)))
    assert await store.commit([settled]) == [Stored()]
    assert await store.commit([late]) == [Stored(duplicate=True)]
    assert await store.commit([late, settled]) == [Stored(duplicate=True)] * 2
    queries = UsageQueries(pool=pool)
    rows, _ = await queries.sums(Filter(model="corrected"), [Group.REGION], limit=10, token="")
    assert [(row.keys, row.requests, row.completion_tokens) for row in rows] == [(("us",), 1, 48)]
    assert rows[0].cost_picodollars == late.record.cost_picodollars
    records, _ = await queries.records(Filter(model="corrected"), limit=10, token="")
    assert [listed.row.record for listed in records] == [late.record]


async def test_a_second_gateways_different_word_changes_nothing(store: LedgerStore, pool: Pool) -> None:
    context = sample_context(model="contradicted")
    first = prepared(sample_record(context))
    second = prepared(sample_record(context, sample_usage(completion=9999)))
    assert await store.commit([first]) == [Stored()]
    assert await store.commit([second]) == [Stored(duplicate=True)]
    records, _ = await UsageQueries(pool=pool).records(Filter(model="contradicted"), limit=10, token="")
    assert [listed.row.record for listed in records] == [first.record]


@pytest.mark.parametrize("table", ["usage_records", "usage_records_default", "", "witness_differences"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET node_id = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
async def test_nobody_changes_what_is_in_the_ledger(
    store: LedgerStore, pool: Pool, table: str, statement: str
) -> None:
    await store.commit([prepared(sample_record())])
    name = table or f"usage_records_{SystemClock().now():%Y_%m}"
    async with pool.connection() as connection:
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            await connection.execute(statement.format(name).encode())


async def test_records_lie_in_their_months_partition(store: LedgerStore, pool: Pool) -> None:
    item = prepared(sample_record(sample_context(model="placed")))
    await store.commit([item])
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT tableoid::regclass::text FROM usage_records WHERE model = 'placed'")
        assert await cursor.fetchall() == [(f"usage_records_{SystemClock().now():%Y_%m}",)]
