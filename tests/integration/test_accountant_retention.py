"""Records whose time is over go, and nothing else: sums stay, and nobody who still has to read them is passed over."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from crosslogic_accountant.copy_format import usage_row
from crosslogic_accountant.domain import LedgerRow
from crosslogic_accountant.partitions import PartitionKeeper
from crosslogic_accountant.ports import PreparedRecord
from crosslogic_accountant.record_log_store import BILLING, RecordLog
from crosslogic_accountant.rollups.store import RollupStore
from crosslogic_accountant.usage_queries import Filter, UsageQueries
from crosslogic_common.errors import CodedError
from crosslogic_common.postgres import Pool, open_pool
from tests.fakes.accountant_database import ledger_store, metrics, prepare_ledger, writer_connection
from tests.fakes.accountant_samples import prepared, sample_context, sample_record

_OLD = datetime(2024, 3, 10, 12, tzinfo=UTC)


class FixedClock:
    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture
async def pool(pg_url: str) -> AsyncIterator[Pool]:
    await prepare_ledger(pg_url)
    async with open_pool(pg_url, schema="ledger", max_size=2) as opened:
        yield opened


def item_at(time: datetime) -> PreparedRecord:
    sample = prepared(sample_record(sample_context(model="kept"))).record
    millis = round(time.timestamp() * 1000)
    record = replace(sample, request_id=millis.to_bytes(6, "big") + sample.request_id[6:], start_time_us=millis * 1000)
    return PreparedRecord(record, usage_row(LedgerRow(record)))


async def test_a_month_goes_once_all_have_settled_it_and_its_sums_stay(pg_url: str, pool: Pool) -> None:
    then = PartitionKeeper(connection=writer_connection(pg_url), clock=FixedClock(_OLD), metrics=metrics())
    await then.prepare()
    await then.close()
    store, rollups = ledger_store(pg_url), RollupStore(connection=writer_connection(pg_url))
    old, new = item_at(_OLD), item_at(datetime.now(UTC))
    await store.commit([old])
    await store.commit([new])
    log, queries = RecordLog(pool=pool), UsageQueries(pool=pool)
    _, end = await log.read(0, limit=10)
    await log.read(1, limit=10, reader=BILLING)
    keeper = PartitionKeeper(
        connection=writer_connection(pg_url),
        clock=FixedClock(datetime.now(UTC)),
        metrics=metrics(),
        keep_months=13,
    )
    old_months = [f"usage_records_2024_0{month}" for month in (2, 3, 4, 5)]
    assert await keeper.drop_old() == [month for month in old_months if month != "usage_records_2024_03"]
    while await rollups.roll():
        pass
    assert await keeper.drop_old() == ["usage_records_2024_03"]
    assert await keeper.drop_old() == []
    (total,), _ = await queries.sums(Filter(model="kept"), [], limit=1, token="")
    assert (total.requests, total.cost_picodollars) == (2, 2 * new.record.cost_picodollars)
    listed, _ = await queries.records(Filter(model="kept"), limit=10, token="")
    assert [each.row.record for each in listed] == [new.record]
    with pytest.raises(CodedError, match="no longer kept"):
        await log.read(0, limit=10)
    entries, _ = await log.read(1, limit=10)
    assert [(entry.sequence, entry.row.record) for entry in entries] == [(end, new.record)]
    with pytest.raises(CodedError, match="kept from 2024-"):
        await rollups.rebuild(_OLD.replace(hour=0), _OLD.replace(hour=1))
    for each in (store, rollups, keeper):
        await each.close()
