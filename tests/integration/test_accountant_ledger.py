"""The ledger on a real PostgreSQL: what is acknowledged is there, once, at the right price."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from crosslogic_accountant.copy_format import usage_row
from crosslogic_accountant.domain import LedgerRow
from crosslogic_accountant.ledger_store import LedgerStore
from crosslogic_accountant.partitions import PartitionKeeper
from crosslogic_accountant.ports import PreparedRecord, Stored
from crosslogic_accountant.usage_queries import Filter, Group, UsageQueries
from crosslogic_common.clock import SystemClock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Pool, open_pool
from tests.fakes.accountant_database import ledger_store, metrics, prepare_ledger, writer_connection
from tests.fakes.accountant_samples import (
    API_KEY,
    ENVIRONMENT,
    ORG,
    prepared,
    request_uuid,
    sample_context,
    sample_record,
    sample_usage,
)


@pytest.fixture
async def ledger_url(pg_url: str) -> str:
    await prepare_ledger(pg_url)
    return pg_url


@pytest.fixture
async def pool(ledger_url: str) -> AsyncIterator[Pool]:
    async with open_pool(ledger_url, schema="ledger", max_size=2) as opened:
        yield opened


@pytest.fixture
async def store(ledger_url: str) -> AsyncIterator[LedgerStore]:
    opened = ledger_store(ledger_url)
    yield opened
    await opened.close()


def as_witness(item: PreparedRecord) -> PreparedRecord:
    record = replace(item.record, from_witness=True, http_status=0, time_to_first_token_us=0)
    return PreparedRecord(record, usage_row(LedgerRow(record)))


async def test_a_record_reads_back_as_it_was_reported(store: LedgerStore, pool: Pool) -> None:
    message = sample_record(usage=sample_usage(prompt=2**31 - 1, completion=2**31 - 1, cached=7))
    message.context.prompt_price_picodollars = 10**12
    message.context.completion_price_picodollars = 10**12 - 1
    message.context.model = 'odd "name"\twith \\ and ü'
    assert await store.commit([prepared(message)]) == [Stored()]
    records, token = await UsageQueries(pool=pool).records(Filter(request_id=request_uuid(message)), limit=10, token="")
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
    stores = [ledger_store(ledger_url) for _ in range(4)]
    answers = await asyncio.gather(
        *(one.commit(part) for one, part in zip(stores, (items, items[::-1], items[50:], items[:150]), strict=True))
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
async def test_nobody_changes_what_is_in_the_ledger(store: LedgerStore, pool: Pool, table: str, statement: str) -> None:
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


async def test_the_month_turns_and_records_go_on(pg_url: str, ledger_url: str, pool: Pool) -> None:
    keeper = PartitionKeeper(
        connection=writer_connection(pg_url), clock=FixedClock(datetime(2031, 11, 30, tzinfo=UTC)), metrics=metrics()
    )
    await asyncio.gather(keeper.prepare())
    await keeper.prepare()
    await keeper.close()
    turn_ms = round(datetime(2031, 12, 1, tzinfo=UTC).timestamp() * 1000)
    store = ledger_store(pg_url)
    items = [item_of_time(millis) for millis in (turn_ms - 1, turn_ms, turn_ms + 1)]
    assert await store.commit(items) == [Stored()] * 3
    assert await store.commit(items) == [Stored(duplicate=True)] * 3
    await store.close()
    assert await partitions_of(pool, "timed") == {"usage_records_2031_11": 1, "usage_records_2031_12": 2}


async def test_a_record_of_a_month_without_partition_is_kept_and_found_and_never_moved(
    pg_url: str, ledger_url: str, pool: Pool
) -> None:
    stray_ms = round(datetime(2035, 5, 5, tzinfo=UTC).timestamp() * 1000)
    item = item_of_time(stray_ms, "stray")
    store = ledger_store(pg_url)
    assert await store.commit([item]) == [Stored()]
    measured = metrics()
    keeper = PartitionKeeper(
        connection=writer_connection(pg_url), clock=FixedClock(datetime(2035, 5, 6, tzinfo=UTC)), metrics=measured
    )
    await keeper.prepare()
    await keeper.close()
    assert measured.stray_months._value.get() == 1
    assert await store.commit([item]) == [Stored(duplicate=True)]
    await store.close()
    assert await partitions_of(pool, "stray") == {"usage_records_default": 1}
    (row,), _ = await UsageQueries(pool=pool).sums(Filter(model="stray"), [], limit=1, token="")
    assert row.requests == 1


async def test_partitions_are_made_while_records_are_written(pg_url: str, ledger_url: str) -> None:
    stores = [ledger_store(pg_url) for _ in range(2)]
    keepers = [
        PartitionKeeper(
            connection=writer_connection(pg_url),
            clock=FixedClock(datetime(2040, 5, 6, tzinfo=UTC)),
            metrics=metrics(),
            months_ahead=12,
        )
        for _ in range(2)
    ]

    async def write(store: LedgerStore) -> None:
        for _ in range(20):
            items = [prepared(sample_record()) for _ in range(20)]
            assert await store.commit(items) == [Stored()] * 20

    async with asyncio.timeout(20):
        await asyncio.gather(*(write(store) for store in stores), *(keeper.prepare() for keeper in keepers))
    for store in stores:
        await store.close()
    for keeper in keepers:
        await keeper.close()


@pytest.mark.parametrize(
    "restriction",
    [
        Filter(org_id=UUID(ORG)),
        Filter(environment_id=UUID(ENVIRONMENT)),
        Filter(api_key_id=UUID(API_KEY)),
        Filter(request_id=UUID(ORG)),
        Filter(since=datetime.now(UTC) - timedelta(hours=2), until=datetime.now(UTC)),
    ],
    ids=["org", "environment", "key", "request", "time"],
)
async def test_no_question_about_one_tenant_reads_the_whole_ledger(
    store: LedgerStore, pool: Pool, restriction: Filter
) -> None:
    await store.commit([prepared(sample_record()) for _ in range(10)])
    seen: list[str] = []

    class Explaining(UsageQueries):
        async def _fetch(self, query: sql.Composed, values: Sequence[object]) -> list[tuple[object, ...]]:
            async with pool.connection() as connection, connection.transaction():
                await connection.execute("SET LOCAL enable_seqscan = off")
                cursor = await connection.execute(sql.SQL("EXPLAIN ") + query, values)
                seen.extend(str(row[0]) for row in await cursor.fetchall())
            return []

    await Explaining(pool=pool).sums(restriction, [Group.MODEL], limit=10, token="")
    await Explaining(pool=pool).records(restriction, limit=10, token="")
    assert any("Index" in line for line in seen)
    assert [line for line in seen if "Seq Scan" in line] == []


async def test_a_question_that_takes_too_long_is_ended_with_advice(ledger_url: str, store: LedgerStore) -> None:
    await store.commit([prepared(sample_record()) for _ in range(3000)])
    async with open_pool(ledger_url, schema="ledger", max_size=1, statement_timeout_ms=1) as slow:
        with pytest.raises(CodedError, match="shorter time") as caught:
            await UsageQueries(pool=slow).sums(Filter(), [Group.MODEL, Group.HOUR], limit=10, token="")
    assert caught.value.code is ErrorCode.TIMEOUT


class FixedClock:
    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return 0.0


def item_of_time(millis: int, model: str = "timed") -> PreparedRecord:
    sample = prepared(sample_record(sample_context(model=model))).record
    request_id = millis.to_bytes(6, "big") + sample.request_id[6:]
    record = replace(sample, request_id=request_id, start_time_us=millis * 1000)
    return PreparedRecord(record, usage_row(LedgerRow(record)))


async def partitions_of(pool: Pool, model: str) -> dict[str, int]:
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT tableoid::regclass::text, count(*) FROM usage_records WHERE model = %s GROUP BY 1", (model,)
        )
        return {str(row[0]): int(row[1]) for row in await cursor.fetchall()}
