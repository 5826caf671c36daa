"""A price changes at noon, a month ends at midnight: records count where and as they were admitted (experiment 16)."""

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from crosslogic_accountant.copy_format import usage_row
from crosslogic_accountant.domain import LedgerRow
from crosslogic_accountant.partitions import PartitionKeeper
from crosslogic_accountant.ports import PreparedRecord, Stored
from crosslogic_accountant.usage_queries import Filter, Group, UsageQueries
from crosslogic_common.clock import SystemClock
from crosslogic_common.postgres import open_pool
from tests.fakes.accountant_database import metrics, prepare_ledger, writer_connection
from tests.fakes.accountant_money import Books
from tests.fakes.accountant_samples import prepared, sample_context, sample_record, sample_usage

_CLOCK_ERROR = timedelta(minutes=5)


@pytest.fixture
async def books(pg_url: str) -> AsyncIterator[Books]:
    await prepare_ledger(pg_url)
    keeper = PartitionKeeper(connection=writer_connection(pg_url), clock=SystemClock(), metrics=metrics())
    await keeper.prepare()
    await keeper.close()
    async with open_pool(pg_url, schema="ledger", max_size=4) as pool:
        opened = Books(pg_url, pool)
        yield opened
        await opened.close()


def admitted(
    org: UUID, start: datetime, *, version: str, price: int, id_time: datetime | None = None
) -> PreparedRecord:
    """A request that started then, at the price of then; its id may come from a clock that is wrong."""
    context = sample_context(org_id=str(org), price_version=version)
    context.prompt_price_picodollars = context.completion_price_picodollars = price
    sample = prepared(sample_record(context, sample_usage(prompt=10, completion=1))).record
    id_ms = round((id_time or start).timestamp() * 1000)
    record = replace(
        sample,
        request_id=id_ms.to_bytes(6, "big") + sample.request_id[6:],
        start_time_us=round(start.timestamp() * 1_000_000),
    )
    return PreparedRecord(record, usage_row(LedgerRow(record)))


@pytest.mark.parametrize("seed", range(3))
async def test_records_keep_the_price_of_their_admission_however_late_and_in_whatever_order_they_come(
    books: Books, seed: int
) -> None:
    org, chance = uuid4(), random.Random(seed)  # test data
    noon = (datetime.now(UTC) - timedelta(days=2)).replace(hour=12, minute=0, second=0, microsecond=0)
    moments = [noon + timedelta(milliseconds=chance.randrange(-1800_000, 1800_000)) for _ in range(60)]
    moments += [noon - timedelta(microseconds=1), noon]
    items = [
        admitted(
            org,
            moment,
            version="old" if moment < noon else "new",
            price=50_000 if moment < noon else 70_000,
            id_time=moment + chance.uniform(-1, 1) * _CLOCK_ERROR,
        )
        for moment in moments
    ]
    arriving = [*items, *chance.sample(items, 20)]
    chance.shuffle(arriving)
    for first in range(0, len(arriving), 9):
        await books.ledger.commit(arriving[first : first + 9])
        if chance.random() < 0.5:
            await books.roll()
    queries = UsageQueries(pool=books.pool)
    rows, _ = await queries.sums(Filter(org_id=org), [Group.HOUR], limit=10, token="")
    before = sum(moment < noon for moment in moments)
    assert [(row.keys[0], row.requests, row.cost_picodollars) for row in rows] == [
        (noon - timedelta(hours=1), before, before * 11 * 50_000),
        (noon, 62 - before, (62 - before) * 11 * 70_000),
    ]
    listed, _ = await queries.records(Filter(org_id=org), limit=100, token="")
    assert {(each.row.record.terms.price_version, each.row.record.cost_picodollars) for each in listed} == {
        ("old", 550_000),
        ("new", 770_000),
    }


async def test_a_month_ends_between_two_requests_and_each_is_in_its_own(books: Books) -> None:
    org = uuid4()
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    edges = [month - timedelta(microseconds=1), month, month + timedelta(microseconds=1)]
    # Clocks five minutes wrong put ids into the other month's partition; the start decides where a record counts.
    items = [
        admitted(org, edge, version="v", price=1, id_time=edge + error)
        for edge in edges
        for error in (-_CLOCK_ERROR, timedelta(), _CLOCK_ERROR)
    ]
    assert await books.ledger.commit(items) == [Stored()] * 9
    queries = UsageQueries(pool=books.pool)
    for _ in range(2):
        for since, until, requests in ((None, month, 3), (month, None, 6)):
            (row,), _ = await queries.sums(Filter(org_id=org, since=since, until=until), [], limit=1, token="")
            assert (row.requests, row.cost_picodollars) == (requests, 11 * requests)
        await books.roll()
