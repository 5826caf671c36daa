"""What the real ledger and the fake one both promise, for records that come in any order, any number of times."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosslogic_accountant.copy_format import usage_row
from crosslogic_accountant.domain import Counts, LedgerRow, UsageRecord
from crosslogic_accountant.ports import PreparedRecord, Stored
from tests.fakes.accountant_database import ledger_store, prepare_ledger
from tests.fakes.accountant_ledger import MemoryLedger
from tests.fakes.accountant_samples import prepared, sample_context, sample_record

REQUESTS = 4

# (which request, how many tokens were generated, said by a witness)
Saying = tuple[int, int, bool]
sayings = st.tuples(st.integers(0, REQUESTS - 1), st.integers(0, 2), st.booleans())
batches = st.lists(st.lists(sayings, min_size=1, max_size=5), min_size=1, max_size=5)


def told(bases: Sequence[UsageRecord], saying: Saying) -> PreparedRecord:
    number, completion, from_witness = saying
    record = replace(
        bases[number],
        counts=Counts(100, 0, completion, 1),
        cost_picodollars=100 * 50_000 + completion * 70_000,
        from_witness=from_witness,
    )
    return PreparedRecord(record, usage_row(LedgerRow(record)))


def expected(history: Sequence[Sequence[Saying]]) -> dict[int, int]:
    """By request, the tokens that count: the first gateway's word, or else the first witness's."""
    gateways: dict[int, int] = {}
    witnesses: dict[int, int] = {}
    for batch in history:
        for saying in batch:
            (witnesses if saying[2] else gateways).setdefault(saying[0], saying[1])
    return {**witnesses, **gateways}


def test_any_interleaving_of_repetitions_and_contradictions_charges_each_request_once(pg_url: str) -> None:
    asyncio.run(prepare_ledger(pg_url))

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(batches)
    def run(history: list[list[Saying]]) -> None:
        asyncio.run(check(pg_url, history))

    run()


async def check(url: str, history: list[list[Saying]]) -> None:
    context = sample_context()
    bases = [prepared(sample_record(sample_context(model=context.request_id))).record for _ in range(REQUESTS)]
    real, fake = ledger_store(url), MemoryLedger()
    for batch in history:
        items = [told(bases, saying) for saying in batch]
        for ledger in (real, fake):
            assert all(isinstance(answer, Stored) for answer in await ledger.commit(items))
    await real.close()
    want = expected(history)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute(
            "SELECT request_id, sum(requests), sum(completion_tokens), sum(cost_picodollars) FROM ledger.usage_records "
            "WHERE model = %s GROUP BY request_id",
            (context.request_id,),
        )
        sums = {row[0].bytes: tuple(map(int, row[1:])) for row in await cursor.fetchall()}
    assert sums == {
        bases[number].request_id: (1, tokens, 100 * 50_000 + tokens * 70_000) for number, tokens in want.items()
    }
    assert {request_id: row.record.counts.completion_tokens for request_id, row in fake.effective().items()} == {
        bases[number].request_id: tokens for number, tokens in want.items()
    }
