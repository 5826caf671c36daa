"""Witnesses on a real PostgreSQL: a gateway's death loses no usage, and nobody is charged twice for it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_accountant.ledger_store import LedgerStore
from crosslogic_accountant.policy import WitnessRing
from crosslogic_accountant.ports import Stored
from crosslogic_accountant.record_reader import RecordReader, WitnessReader
from crosslogic_accountant.settler import Settler
from crosslogic_accountant.usage_queries import Filter, Sums, UsageQueries
from crosslogic_accountant.witness_store import PostgresSettlingStore, WitnessStore
from crosslogic_common.postgres import Pool, open_pool
from crosslogic_common.seal import Sealer
from tests.fakes.accountant_database import ledger_store, metrics, prepare_ledger, writer_connection
from tests.fakes.accountant_samples import (
    SEAL_KEY,
    now_ms,
    prepared,
    sample_context,
    sample_record,
    sample_usage,
    sample_witness,
)

GRACE_S = 0.2


class Bench:
    """A store of records, a store of witnesses and a settler whose clock the test moves."""

    def __init__(self, url: str, pool: Pool) -> None:
        ring = WitnessRing(grace_s=GRACE_S)
        self.ahead_s = 0.0
        self.records: LedgerStore = ledger_store(url)
        self.witnesses = WitnessStore(connection=writer_connection(url), ring=ring, now_s=self.now_s)
        self.settling = PostgresSettlingStore(connection=writer_connection(url))
        self.other_settling = PostgresSettlingStore(connection=writer_connection(url))
        self.reader = RecordReader(now_ms=now_ms)
        self.queries = UsageQueries(pool=pool)
        self.pool = pool
        self.settler = self._settler(ring, self.settling)
        self.other_settler = self._settler(ring, self.other_settling)

    def _settler(self, ring: WitnessRing, store: PostgresSettlingStore) -> Settler:
        return Settler(store=store, ring=ring, reader=self.reader, metrics=metrics(), now_s=self.now_s)

    def now_s(self) -> float:
        return time.time() + self.ahead_s

    async def witness(self, *messages: pb.Witness) -> None:
        reader = WitnessReader(sealer=Sealer(SEAL_KEY), now_ms=now_ms)
        items = [reader.read(message) for message in messages]
        assert await self.witnesses.commit(items) == [Stored()] * len(items)

    async def settle_all(self) -> int:
        """Lets the grace time pass, then looks at every slot."""
        await asyncio.sleep(GRACE_S + 0.05)
        written = 0
        for slot in range(16):
            written += await self.settling.settle_slot(slot, grace_s=GRACE_S, decide=self.settler.decide) or 0
        return written

    async def sums(self, model: str) -> Sums:
        (row,), _ = await self.queries.sums(Filter(model=model), [], limit=1, token="")
        return row

    async def rows(self, query: str) -> list[tuple[object, ...]]:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(query.encode())
            return await cursor.fetchall()

    async def close(self) -> None:
        for part in (self.records, self.witnesses, self.settling, self.other_settling):
            await part.close()


@pytest.fixture
async def bench(pg_url: str) -> AsyncIterator[Bench]:
    await prepare_ledger(pg_url)
    async with open_pool(pg_url, schema="ledger", max_size=2) as pool:
        opened = Bench(pg_url, pool)
        yield opened
        await opened.close()


async def test_a_request_whose_gateway_died_is_charged_from_the_nodes_count(bench: Bench) -> None:
    context = sample_context(model="orphan")
    await bench.witness(sample_witness(context, sample_usage(10, 7), outcome=common_pb.OUTCOME_CLIENT_DISCONNECTED))
    assert await bench.settle_all() == 1
    row = await bench.sums("orphan")
    assert (row.requests, row.prompt_tokens, row.completion_tokens) == (1, 10, 7)
    assert row.cost_picodollars == 10 * 50_000 + 7 * 70_000
    (listed,), _ = await bench.queries.records(Filter(model="orphan"), limit=10, token="")
    assert listed.row.record.from_witness
    assert listed.row.record.latency_us == 200_000


async def test_a_witness_that_is_repeated_over_two_slots_and_nodes_is_charged_once(bench: Bench) -> None:
    context = sample_context(model="repeated-witness")
    other = sample_context(model="repeated-witness", request_id=context.request_id, node_id="another-node")
    await bench.witness(sample_witness(context), sample_witness(other, sample_usage(completion=3)))
    bench.ahead_s = bench.settler._ring.slot_s * 3
    await bench.witness(sample_witness(context))
    assert await bench.settle_all() == 1
    row = await bench.sums("repeated-witness")
    assert (row.requests, row.completion_tokens) == (1, 20)
    assert await bench.rows("SELECT * FROM witnesses") == []
    await bench.witness(sample_witness(context))
    assert await bench.settle_all() == 0


async def test_a_node_that_was_overtaken_does_not_hide_the_count_of_the_one_that_ended_the_stream(bench: Bench) -> None:
    context = sample_context(model="resumed")
    other = sample_context(model="resumed", request_id=context.request_id, node_id="another-node")
    await bench.witness(
        sample_witness(context, sample_usage(10, 500), outcome=common_pb.OUTCOME_FAILED),
        sample_witness(other, sample_usage(10, 80), outcome=common_pb.OUTCOME_CLIENT_DISCONNECTED),
    )
    assert await bench.settle_all() == 1
    row = await bench.sums("resumed")
    assert (row.requests, row.prompt_tokens, row.completion_tokens) == (1, 10, 80)


async def test_a_witness_younger_than_the_grace_time_leaves_the_gateway_its_time(bench: Bench) -> None:
    context = sample_context(model="young")
    await bench.witness(sample_witness(context))
    for slot in range(16):
        assert await bench.settling.settle_slot(slot, grace_s=60, decide=bench.settler.decide) is None
    await bench.records.commit([prepared(sample_record(context))])
    assert await bench.settle_all() == 0
    assert (await bench.sums("young")).requests == 1


async def test_where_the_node_counts_otherwise_the_gateway_wins_and_the_difference_is_kept(bench: Bench) -> None:
    agreeing, differing = sample_context(model="compared"), sample_context(model="compared")
    await bench.records.commit([prepared(sample_record(context)) for context in (agreeing, differing)])
    await bench.witness(
        sample_witness(agreeing), sample_witness(differing, sample_usage(completion=25)), sample_witness(differing)
    )
    assert await bench.settle_all() == 0
    assert (await bench.sums("compared")).completion_tokens == 40
    rows = await bench.rows(
        "SELECT request_id::text, gateway_completion_tokens, witness_completion_tokens FROM witness_differences"
    )
    assert rows == [(differing.request_id, 20, 25)]


async def test_a_failed_attempts_witness_does_not_pass_for_the_whole_request(bench: Bench) -> None:
    context = sample_context(model="failed-over")
    await bench.witness(sample_witness(context, outcome=common_pb.OUTCOME_FAILED))
    assert await bench.settle_all() == 0
    assert (await bench.sums("failed-over")).requests == 0
    second = sample_context(model="failed-over", request_id=context.request_id, node_id="second-node")
    await bench.witness(sample_witness(second, sample_usage(completion=5)))
    assert await bench.settle_all() == 1
    assert (await bench.sums("failed-over")).completion_tokens == 5


async def test_a_refused_body_leaves_nothing_in_the_ledger(bench: Bench) -> None:
    context = sample_context(model="refused-body")
    usage = common_pb.TokenUsage(source=common_pb.COUNT_SOURCE_NONE)
    await bench.witness(sample_witness(context, usage))
    assert await bench.settle_all() == 0
    assert (await bench.sums("refused-body")).requests == 0


async def test_settling_and_a_late_gateway_in_the_same_moment_charge_once_with_the_gateways_figures(
    bench: Bench,
) -> None:
    contexts = [sample_context(model="same-moment") for _ in range(300)]
    await bench.witness(*(sample_witness(context, sample_usage(completion=9)) for context in contexts))
    await asyncio.sleep(GRACE_S + 0.05)
    records = [prepared(sample_record(context)) for context in contexts]

    async def settle() -> None:
        for _ in range(3):
            for slot in range(16):
                with contextlib.suppress(psycopg.errors.UniqueViolation):  # the next turn settles again
                    await bench.settling.settle_slot(slot, grace_s=GRACE_S, decide=bench.settler.decide)

    await asyncio.gather(settle(), bench.records.commit(records[:150]), settle_nothing(bench))
    await bench.records.commit(records[150:])
    await settle()
    row = await bench.sums("same-moment")
    assert (row.requests, row.completion_tokens) == (300, 300 * 20)
    assert await bench.rows("SELECT * FROM witnesses") == []


async def settle_nothing(bench: Bench) -> None:
    """A second replica's settler at work at the same time."""
    for slot in range(16):
        with contextlib.suppress(psycopg.errors.UniqueViolation):
            await bench.other_settling.settle_slot(slot, grace_s=GRACE_S, decide=bench.other_settler.decide)


async def test_many_orphans_are_settled_in_bounded_steps(bench: Bench) -> None:
    contexts = [sample_context(model="many-orphans") for _ in range(4500)]
    messages = [sample_witness(context) for context in contexts]
    await bench.witness(*messages)
    await bench.witness(*messages[::3])
    assert await bench.settle_all() == 4500
    assert (await bench.sums("many-orphans")).requests == 4500


async def test_the_settlers_own_clock_finds_what_is_due(bench: Bench) -> None:
    await bench.witness(sample_witness(sample_context(model="due")))
    assert await bench.settler.settle_due() == 0
    await asyncio.sleep(GRACE_S * 1.5 + 0.1)
    assert await bench.settler.settle_due() == 1
    assert (await bench.sums("due")).requests == 1
