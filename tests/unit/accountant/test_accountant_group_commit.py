"""Group commit: every submitter is told of its own records, whatever the database does in between."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from crosslogic_accountant.group_commit import GroupCommit
from crosslogic_accountant.metrics import LedgerMetrics
from crosslogic_accountant.ports import PreparedRecord, Stored
from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.accountant_ledger import MemoryLedger
from tests.fakes.accountant_samples import prepared, sample_context, sample_record

BASE = [prepared(sample_record()) for _ in range(64)]


@contextlib.asynccontextmanager
async def committing(
    *ledgers: MemoryLedger, max_batch: int = 8, max_queued: int = 1000, drain_s: float = 5.0
) -> AsyncIterator[GroupCommit[PreparedRecord, Stored]]:
    metrics = LedgerMetrics(CollectorRegistry())
    commit: GroupCommit[PreparedRecord, Stored] = GroupCommit(
        name="records",
        sinks=ledgers,
        batch_size=metrics.batch_size,
        commit_seconds=metrics.commit_seconds,
        failures=metrics.commit_failures,
        max_batch=max_batch,
        max_queued=max_queued,
        drain_s=drain_s,
    )
    async with commit.running():
        yield commit


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 63), max_size=20), min_size=1, max_size=10),
    st.lists(st.sampled_from(["", "after"]), max_size=4),
    st.integers(1, 9),
)
def test_every_submission_is_answered_in_order_and_each_request_is_stored_once(
    submissions: list[list[int]], failures: list[str], max_batch: int
) -> None:
    async def run() -> None:
        ledger = MemoryLedger(failures=list(failures))
        async with committing(ledger, max_batch=max_batch) as commit:
            answers = await asyncio.gather(
                *(commit.submit([BASE[number] for number in numbers]) for numbers in submissions)
            )
        assert [len(part) for part in answers] == [len(numbers) for numbers in submissions]
        assert set(ledger.effective()) == {BASE[n].record.request_id for numbers in submissions for n in numbers}
        assert all(size <= max_batch for size in ledger.batches)

    asyncio.run(run())


async def test_each_submitter_gets_its_own_refusal_and_nobody_elses() -> None:
    bad = prepared(sample_record(sample_context(model="refused")))
    ledger = MemoryLedger(refused_models=frozenset({"refused"}))
    async with committing(ledger, max_batch=3) as commit:
        one, two = await asyncio.gather(commit.submit([BASE[0], bad, BASE[1], BASE[2]]), commit.submit([BASE[3]]))
    assert [isinstance(answer, CodedError) for answer in one] == [False, True, False, False]
    assert two == [Stored()]


async def test_what_gathers_while_a_commit_is_under_way_goes_as_one_batch() -> None:
    ledger = MemoryLedger()
    async with committing(ledger, max_batch=1000) as commit:
        await asyncio.gather(*(commit.submit([item]) for item in BASE))
    assert ledger.batches == [64]


async def test_an_outage_is_waited_out_and_nothing_is_refused_for_it() -> None:
    ledger = MemoryLedger(failures=["before", "before", "after"])
    async with committing(ledger) as commit:
        answers = await commit.submit(BASE[:3])
    assert all(isinstance(answer, Stored) for answer in answers)
    assert len(ledger.rows) == 3


async def test_a_fault_of_ours_breaks_that_submission_and_not_the_writer() -> None:
    ledger = MemoryLedger(failures=["fault"])
    async with committing(ledger) as commit:
        with pytest.raises(CodedError) as caught:
            await commit.submit(BASE[:3])
        assert caught.value.code is ErrorCode.INTERNAL
        assert await commit.submit(BASE[:3]) == [Stored()] * 3


async def test_a_submitter_that_goes_away_takes_no_record_with_it() -> None:
    ledger = MemoryLedger(failures=["before"])
    async with committing(ledger) as commit:
        leaving = asyncio.create_task(commit.submit(BASE[:4]))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    assert len(ledger.rows) == 4
    assert ledger.closed


async def test_the_queue_has_a_bound_and_submitters_wait_at_it() -> None:
    ledger = MemoryLedger(failures=["before"])
    async with committing(ledger, max_batch=10, max_queued=20) as commit:
        waiting = [asyncio.create_task(commit.submit(BASE[number * 6 : number * 6 + 6])) for number in range(10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert commit.queued <= 26
        await asyncio.gather(*waiting)
    assert len(ledger.rows) == 60


async def test_stopping_writes_what_is_queued_and_then_takes_nothing_more() -> None:
    ledger = MemoryLedger()
    async with committing(ledger) as commit:
        queued = asyncio.create_task(commit.submit(BASE[:20]))
        await asyncio.sleep(0)
    assert await queued == [Stored()] * 20
    with pytest.raises(CodedError) as caught:
        await commit.submit(BASE[:1])
    assert caught.value.code is ErrorCode.UNAVAILABLE
