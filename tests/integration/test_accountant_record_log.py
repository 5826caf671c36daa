"""Readers with a cursor: no row of the ledger is left out, whatever commits late; corrections come in their turn."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest

from crosslogic_accountant.copy_format import usage_row
from crosslogic_accountant.correction_store import Correction, Corrections
from crosslogic_accountant.domain import Counts, CountSource, LedgerRow, Outcome
from crosslogic_accountant.ledger_store import LedgerStore, copy_usage
from crosslogic_accountant.ports import PreparedRecord, Stored
from crosslogic_accountant.record_log_store import BILLING, Entry, RecordLog
from crosslogic_accountant.usage_queries import Filter, UsageQueries
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Pool, open_pool
from tests.fakes.accountant_database import ledger_store, prepare_ledger, writer_connection
from tests.fakes.accountant_samples import prepared, request_uuid, sample_context, sample_record, sample_usage


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


def samples(model: str, count: int) -> list[PreparedRecord]:
    return [prepared(sample_record(sample_context(model=model))) for _ in range(count)]


async def read_on(log: RecordLog, after: int, limit: int = 1000) -> list[Entry]:
    entries: list[Entry] = []
    while page := (await log.read(after, limit=limit))[0]:
        assert [entry.sequence for entry in page] == list(range(after + 1, after + len(page) + 1))
        entries += page
        after = page[-1].sequence
    return entries


async def end_of(log: RecordLog) -> int:
    return (await log.read(0, limit=1))[1]


async def test_a_row_that_commits_late_comes_after_every_row_that_was_read(
    ledger_url: str, store: LedgerStore, pool: Pool
) -> None:
    log = RecordLog(pool=pool)
    start = await end_of(log)
    late, early = samples("late", 3), samples("early", 2)
    slow = writer_connection(ledger_url)
    async with slow.use() as connection, connection.transaction():
        await copy_usage(connection, [item.row for item in late])
        assert await store.commit(early) == [Stored()] * 2
        seen = await read_on(log, start)
        assert [entry.row.record.terms.model for entry in seen] == ["early"] * 2
    after = await read_on(log, start + 2)
    assert [(entry.sequence - start, entry.row.record.terms.model) for entry in after] == [
        (3, "late"),
        (4, "late"),
        (5, "late"),
    ]
    await slow.close()


async def test_a_cursor_that_reads_while_many_write_misses_nothing_and_sees_nothing_twice(
    ledger_url: str, pool: Pool
) -> None:
    log = RecordLog(pool=pool)
    start = await end_of(log)
    stores = [ledger_store(ledger_url) for _ in range(4)]
    sent = [samples("raced", 30) for _ in stores]
    writing = True

    async def write(store: LedgerStore, items: list[PreparedRecord]) -> None:
        for first in range(0, len(items), 3):
            await store.commit(items[first : first + 3])

    async def follow() -> list[Entry]:
        entries: list[Entry] = []
        while True:
            last_round = not writing
            entries += await read_on(log, entries[-1].sequence if entries else start, limit=7)
            if last_round:
                return entries
            await asyncio.sleep(0)

    following = asyncio.create_task(follow())
    await asyncio.gather(*(write(store, items) for store, items in zip(stores, sent, strict=True)))
    writing = False
    entries = await following
    for store in stores:
        await store.close()
    assert len(entries) == 120
    assert {entry.row.record for entry in entries} == {item.record for items in sent for item in items}


async def test_a_transaction_that_fails_leaves_no_hole(ledger_url: str, store: LedgerStore, pool: Pool) -> None:
    log = RecordLog(pool=pool)
    start = await end_of(log)
    (item,) = samples("once", 1)
    assert await store.commit([item]) == [Stored()]
    assert await store.commit([item, *samples("next", 1)]) == [Stored(duplicate=True), Stored()]
    async with pool.connection() as connection:
        with pytest.raises(psycopg.errors.UniqueViolation):
            await copy_usage(connection, [item.row])
    assert [entry.row.record.terms.model for entry in await read_on(log, start)] == ["once", "next"]


async def test_a_cursor_from_another_life_of_the_ledger_is_told_so(store: LedgerStore, pool: Pool) -> None:
    await store.commit(samples("some", 1))
    with pytest.raises(CodedError, match="ends at") as caught:
        await RecordLog(pool=pool).read(10**9, limit=1)
    assert caught.value.code is ErrorCode.CONFLICT


async def test_what_billing_has_settled_shows_on_each_record(store: LedgerStore, pool: Pool) -> None:
    log = RecordLog(pool=pool)
    first, second = samples("billed", 2)
    await store.commit([first])
    await log.read(await end_of(log), limit=1, reader=BILLING)
    await store.commit([second])
    listed, _ = await UsageQueries(pool=pool).records(Filter(model="billed"), limit=10, token="")
    assert [(each.row.record, each.billed) for each in listed] == [(second.record, False), (first.record, True)]


async def test_a_correction_reverses_and_replaces_and_says_who_and_why(store: LedgerStore, pool: Pool) -> None:
    log, queries = RecordLog(pool=pool), UsageQueries(pool=pool)
    message = sample_record(sample_context(model="wrong"), sample_usage(prompt=100, completion=50))
    item = prepared(message)
    await store.commit([item])
    start = await end_of(log)
    corrections = Corrections(pool=pool)
    asked = Correction(
        correction_id=uuid4(),
        request_id=request_uuid(message),
        expected_revision=0,
        reason="the engine counted a prompt twice",
        author="auditor",
        counts=Counts(50, 0, 50, CountSource.ENGINE_FINAL),
    )
    made = await corrections.correct(asked)
    assert (made.row.revision, made.row.corrects, made.duplicate) == (2, 0, False)
    assert made.row.record.cost_picodollars == 50 * 50_000 + 50 * 70_000
    again = await corrections.correct(asked)
    assert (again.row, again.duplicate) == (made.row, True)
    entries = await read_on(log, start)
    assert [(entry.row.requests, entry.row.revision, entry.row.record.counts.prompt_tokens) for entry in entries] == [
        (-1, 1, 100),
        (1, 2, 50),
    ]
    (sums,), _ = await queries.sums(Filter(model="wrong"), [], limit=1, token="")
    assert (sums.requests, sums.prompt_tokens, sums.cost_picodollars) == (1, 50, made.row.record.cost_picodollars)
    assert await store.commit([item]) == [Stored(duplicate=True)]
    listed, _ = await queries.records(Filter(request_id=request_uuid(message)), limit=10, token="")
    assert [each.row for each in listed] == [made.row]
    assert listed[0].sequence == start + 2
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT reason, author FROM corrections WHERE request_id = %s", (request_uuid(message),)
        )
        assert await cursor.fetchall() == [("the engine counted a prompt twice", "auditor")]


async def test_two_operators_who_correct_one_record_at_once_do_not_undo_each_other(
    store: LedgerStore, pool: Pool
) -> None:
    message = sample_record(sample_context(model="contended"))
    await store.commit([prepared(message)])
    corrections = Corrections(pool=pool)

    def waive() -> Correction:
        return Correction(
            correction_id=uuid4(),
            request_id=request_uuid(message),
            expected_revision=0,
            reason="waived",
            author="operator",
            prompt_price_picodollars=0,
            completion_price_picodollars=0,
        )

    answers = await asyncio.gather(*(corrections.correct(waive()) for _ in range(4)), return_exceptions=True)
    made = [answer for answer in answers if not isinstance(answer, BaseException)]
    refused = [answer.code for answer in answers if isinstance(answer, CodedError)]
    assert (len(made), refused) == (1, [ErrorCode.CONFLICT] * 3)
    assert made[0].row.record.cost_picodollars == 0


async def test_cached_prompt_tokens_have_their_own_price(store: LedgerStore, pool: Pool) -> None:
    context = sample_context(model="cached", price_version="pv-1", plan="team")
    context.cached_prompt_price_picodollars = 5_000
    message = sample_record(context, sample_usage(prompt=100, completion=10, cached=60))
    message.attempts, message.failed_over, message.region_failover, message.resumed = 3, True, True, True
    item = prepared(message)
    assert item.record.cost_picodollars == 40 * 50_000 + 60 * 5_000 + 10 * 70_000
    assert await store.commit([item]) == [Stored()]
    (listed,), _ = await UsageQueries(pool=pool).records(Filter(model="cached"), limit=10, token="")
    assert listed.row == LedgerRow(item.record)
    terms = listed.row.record.terms
    assert (terms.price_version, terms.plan, terms.cached_prompt_price_picodollars) == ("pv-1", "team", 5_000)
    assert usage_row(listed.row) == item.row
    assert listed.row.record.outcome == Outcome.SUCCEEDED


@pytest.mark.parametrize("reached", [30_000, 2**31 - 1_000])
async def test_a_reader_goes_on_where_its_number_and_its_pages_length_outgrow_a_small_integer(
    store: LedgerStore, pool: Pool, reached: int
) -> None:
    # Each of the two fits 16 (or 32) bits, and the database takes them for such; their sum does not.
    async with pool.connection() as connection:
        await connection.execute("UPDATE usage_head SET last_sequence = %s", (reached,))
    assert await store.commit(samples("after many", 2)) == [Stored()] * 2
    entries, last = await RecordLog(pool=pool).read(reached, limit=5_000)
    assert ([entry.sequence for entry in entries], last) == ([reached + 1, reached + 2], reached + 2)
