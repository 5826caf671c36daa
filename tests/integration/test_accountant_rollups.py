"""Rollups on a real PostgreSQL: each record counts once, and every answer is what the records say."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from psycopg import sql

from crosslogic_accountant.copy_format import usage_row
from crosslogic_accountant.correction_store import Correction, Corrections
from crosslogic_accountant.domain import LedgerRow
from crosslogic_accountant.ledger_store import LedgerStore
from crosslogic_accountant.ports import PreparedRecord
from crosslogic_accountant.rollups.roller import RollupChecker
from crosslogic_accountant.rollups.store import Rolled, RollupStore
from crosslogic_accountant.usage_queries import Filter, Group, Sums, UsageQueries
from crosslogic_common.errors import CodedError
from crosslogic_common.postgres import Connection, Pool, open_pool
from tests.fakes.accountant_database import ledger_store, metrics, prepare_ledger, writer_connection
from tests.fakes.accountant_samples import prepared, request_uuid, sample_context, sample_record, sample_usage

_HOUR = timedelta(hours=1)


@pytest.fixture
async def ledger_url(pg_url: str) -> str:
    await prepare_ledger(pg_url)
    return pg_url


@pytest.fixture
async def pool(ledger_url: str) -> AsyncIterator[Pool]:
    async with open_pool(ledger_url, schema="ledger", max_size=4) as opened:
        yield opened


@pytest.fixture
async def store(ledger_url: str) -> AsyncIterator[LedgerStore]:
    opened = ledger_store(ledger_url)
    yield opened
    await opened.close()


@pytest.fixture
async def rollups(ledger_url: str) -> AsyncIterator[RollupStore]:
    opened = RollupStore(connection=writer_connection(ledger_url))
    yield opened
    await opened.close()


def at(time: datetime, *, org: str, model: str = "rolled", prompt: int = 100) -> PreparedRecord:
    sample = prepared(sample_record(sample_context(org_id=org, model=model), sample_usage(prompt=prompt))).record
    millis = round(time.timestamp() * 1000)
    record = replace(sample, request_id=millis.to_bytes(6, "big") + sample.request_id[6:], start_time_us=millis * 1000)
    return PreparedRecord(record, usage_row(LedgerRow(record)))


def spread(count: int, org: str, seed: int) -> list[PreparedRecord]:
    """Records of the last four days, some of them moments from an hour's or a day's edge."""
    draw = random.Random(seed)  # test data
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    edges = [today - timedelta(days=day, hours=hour) for day in range(3) for hour in (0, 1, 5)]
    times = [
        draw.choice(edges) + timedelta(milliseconds=draw.choice((-1, 0, 1)))
        if draw.random() < 0.3
        else now - timedelta(seconds=draw.uniform(0, 4 * 86_400))
        for _ in range(count)
    ]
    return [at(time, org=org, model=f"m{number % 3}", prompt=100 + number) for number, time in enumerate(times)]


async def from_records(pool: Pool, org: str, since: datetime, until: datetime, unit: str) -> list[tuple[object, ...]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(
            sql.SQL(
                "SELECT date_trunc({unit}, start_time, 'UTC'), model, sum(requests), sum(prompt_tokens), "
                "sum(completion_tokens), sum(cost_picodollars) FROM usage_records "
                "WHERE org_id = %s AND start_time >= %s AND start_time < %s "
                "GROUP BY 1, 2 HAVING sum(requests) <> 0 ORDER BY 1, 2"
            ).format(unit=unit),
            (org, since, until),
        )
        return [(row[0], row[1], *(int(value) for value in row[2:])) for row in await cursor.fetchall()]


def shown(rows: Sequence[Sums]) -> list[tuple[object, ...]]:
    return [(*row.keys, row.requests, row.prompt_tokens, row.completion_tokens, row.cost_picodollars) for row in rows]


async def roll_all(rollups: RollupStore) -> int:
    total = 0
    while rolled := await rollups.roll():
        total += rolled
    return total


async def test_answers_are_the_records_sums_whatever_is_rolled_up_so_far(
    store: LedgerStore, pool: Pool, rollups: RollupStore
) -> None:
    org, queries = str(uuid4()), UsageQueries(pool=pool)
    items = spread(300, org, seed=7)
    await store.commit(items[:150])
    await roll_all(rollups)
    await store.commit(items[150:])
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for since, until in (
        (midnight - timedelta(days=3), midnight + timedelta(days=1)),
        (midnight - timedelta(days=2, minutes=1), midnight + timedelta(minutes=3)),
        (midnight - timedelta(hours=1), midnight + timedelta(hours=1)),
        (midnight - timedelta(minutes=10), midnight - timedelta(minutes=2)),
    ):
        for group, unit in ((Group.DAY, "day"), (Group.HOUR, "hour")):
            restriction = Filter(org_id=UUID(org), since=since, until=until)
            rows, _ = await queries.sums(restriction, [group, Group.MODEL], limit=10_000, token="")
            assert shown(rows) == await from_records(pool, org, since, until, unit), (since, until, group)
    assert await roll_all(rollups) == 150
    restriction = Filter(org_id=UUID(org))
    (total,), _ = await queries.sums(restriction, [], limit=1, token="")
    assert (total.requests, total.prompt_tokens) == (300, sum(item.record.counts.prompt_tokens for item in items))


async def test_corrections_and_late_records_reach_the_sums_of_their_own_hour(
    store: LedgerStore, pool: Pool, rollups: RollupStore
) -> None:
    org, queries = str(uuid4()), UsageQueries(pool=pool)
    long_ago = (datetime.now(UTC) - timedelta(days=20)).replace(minute=30)
    message = sample_record(sample_context(org_id=org), sample_usage(prompt=500))
    await store.commit([prepared(message)])
    await roll_all(rollups)
    await store.commit([at(long_ago, org=org, prompt=7)])
    corrected = Correction(
        correction_id=uuid4(),
        request_id=request_uuid(message),
        expected_revision=0,
        reason="waived",
        author="operator",
        prompt_price_picodollars=0,
        completion_price_picodollars=0,
    )
    await Corrections(pool=pool).correct(corrected)
    await roll_all(rollups)
    rows, _ = await queries.sums(Filter(org_id=UUID(org)), [Group.HOUR], limit=10, token="")
    late_cost = 7 * 50_000 + 20 * 70_000
    assert [(row.keys[0].minute, row.requests, row.prompt_tokens, row.cost_picodollars) for row in rows] == [
        (0, 1, 7, late_cost),
        (0, 1, 500, 0),
    ]
    hour = rows[0].keys[0]
    assert hour == long_ago.replace(minute=0, second=0, microsecond=0)


async def test_a_roll_that_dies_before_its_commit_counts_nothing_and_the_next_one_counts_all_once(
    ledger_url: str, store: LedgerStore, pool: Pool, rollups: RollupStore
) -> None:
    org = str(uuid4())
    await roll_all(rollups)
    await store.commit(spread(40, org, seed=3))

    async def dies(connection: Connection, rolled: Rolled) -> None:
        raise RuntimeError("killed")

    dying = RollupStore(connection=writer_connection(ledger_url), on_rolled=dies)
    with pytest.raises(RuntimeError, match="killed"):
        await dying.roll()
    await dying.close()
    others = [RollupStore(connection=writer_connection(ledger_url)) for _ in range(3)]
    rolled = await asyncio.gather(*(other.roll() for other in others))
    for other in others:
        await other.close()
    assert sum(rolled) == 40
    assert await rollups.roll() == 0
    async with pool.connection() as connection:
        for table in ("usage_hourly", "usage_daily"):
            cursor = await connection.execute(
                sql.SQL("SELECT sum(requests) FROM {} WHERE org_id = %s").format(sql.Identifier(table)), (org,)
            )
            row = await cursor.fetchone()
            assert row is not None
            assert row[0] == 40


async def test_a_sum_that_was_spoilt_is_found_and_made_anew_from_the_records(
    ledger_url: str, store: LedgerStore, pool: Pool, rollups: RollupStore
) -> None:
    org = str(uuid4())
    now = datetime.now(UTC)
    hour = (now - 2 * _HOUR).replace(minute=0, second=0, microsecond=0)
    items = [at(hour + timedelta(minutes=minute), org=org) for minute in (0, 20, 59)]
    await store.commit([*items, at(hour - timedelta(minutes=1), org=org)])
    await roll_all(rollups)
    # Not rolled up yet: neither a difference nor part of what is made anew.
    await store.commit([at(hour + timedelta(minutes=30), org=org)])
    assert await rollups.differences(hour - _HOUR, hour + _HOUR) == 0
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE usage_hourly SET prompt_tokens = prompt_tokens + 1 WHERE org_id = %s AND time = %s", (org, hour)
        )
        await connection.execute("UPDATE usage_daily SET cost_picodollars = 0 WHERE org_id = %s", (org,))
        await connection.execute("DELETE FROM usage_hourly WHERE org_id = %s AND time = %s", (org, hour - _HOUR))
    assert await rollups.differences(hour - _HOUR, hour + _HOUR) == 2
    seen = metrics()
    checker = RollupChecker(store=rollups, metrics=seen, now=lambda: now)
    assert await checker.check() == 1
    assert await checker.check() == 0
    assert seen.rollup_differences._value.get() == 1
    low = (hour - _HOUR).replace(hour=0)
    assert await rollups.rebuild(low, low + timedelta(days=2)) == 1
    await roll_all(rollups)
    (total,), _ = await UsageQueries(pool=pool).sums(Filter(org_id=UUID(org)), [], limit=1, token="")
    assert (total.requests, total.cost_picodollars) == (5, 5 * items[0].record.cost_picodollars)


async def test_sums_of_records_that_are_gone_are_not_thrown_away(pool: Pool, rollups: RollupStore) -> None:
    async with pool.connection() as connection:
        await connection.execute("UPDATE usage_head SET kept_from = '2026-06-01'")
    try:
        with pytest.raises(CodedError, match="kept from 2026-06-01"):
            await rollups.rebuild(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 2, tzinfo=UTC))
    finally:
        async with pool.connection() as connection:
            await connection.execute("UPDATE usage_head SET kept_from = NULL")
