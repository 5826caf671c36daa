"""All SQL about witnesses."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from crosslogic_accountant.copy_format import WITNESS_COLUMNS, copy_data, usage_row, witness_row
from crosslogic_accountant.domain import Counts, Difference, LedgerRow, Witness
from crosslogic_accountant.ledger_rows import COLUMNS, ledger_row
from crosslogic_accountant.ledger_store import copy_usage
from crosslogic_accountant.policy import WitnessRing
from crosslogic_accountant.ports import OpenWitness, Settlement, Stored
from crosslogic_accountant.writer_connection import WriterConnection
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection

_COPY = f"COPY witnesses ({WITNESS_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_STORED = Stored()
_FETCH_ROWS = 2_000

# What the ledger holds of each witness's request, where that is nothing or something else than the witness says. Nearly
# every witness agrees, and those never leave the database: they cost one probe of the primary key.
# Of several witnesses of one request, that of a node which ended it (succeeded, or its client left) comes before those
# of nodes that failed it or were overtaken, whatever these counted.
_OPEN = """
    SELECT w.request_id, w.node_id, w.context, w.prompt_tokens, w.cached_prompt_tokens, w.completion_tokens,
           w.count_source, w.outcome, w.duration_us, {columns}
    FROM {slot} w
    LEFT JOIN LATERAL (
        SELECT * FROM usage_records r WHERE r.request_id = w.request_id ORDER BY r.revision DESC LIMIT 1
    ) u ON true
    WHERE u.request_id IS NULL
       OR (NOT u.from_witness AND u.node_id = w.node_id
           AND (u.prompt_tokens, u.cached_prompt_tokens, u.completion_tokens)
               IS DISTINCT FROM (w.prompt_tokens, w.cached_prompt_tokens, w.completion_tokens))
    ORDER BY w.request_id, w.outcome IN (1, 2) DESC, w.completion_tokens DESC, w.node_id
"""
_ADD_DIFFERENCE = """
    INSERT INTO witness_differences (
        request_id, node_id,
        gateway_prompt_tokens, gateway_cached_prompt_tokens, gateway_completion_tokens, gateway_outcome,
        witness_prompt_tokens, witness_cached_prompt_tokens, witness_completion_tokens, witness_outcome)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""


_ADD_UNPAID = """
    INSERT INTO unpaid_witnesses (
        request_id, node_id, outcome, prompt_tokens, cached_prompt_tokens, completion_tokens)
    VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""


class WitnessStore:
    """Keeps witnesses until their grace time is over. A BatchSink."""

    def __init__(self, *, connection: WriterConnection, ring: WitnessRing, now_s: Callable[[], float]) -> None:
        """`now_s` is the wall clock in seconds since the epoch."""
        self._connection = connection
        self._ring = ring
        self._now_s = now_s

    async def commit(self, items: Sequence[Witness]) -> list[Stored | CodedError]:
        """See BatchSink.commit. A repeated witness may be kept twice: it is settled once."""
        slot = self._ring.filling(self._now_s())
        try:
            async with (
                self._connection.use() as connection,
                connection.cursor() as cursor,
                cursor.copy(_COPY.encode()) as copy,
            ):
                await copy.write(copy_data(witness_row(item, slot) for item in items))
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if len(items) == 1:
                return [CodedError(ErrorCode.INVALID_ARGUMENT, "The witness cannot be stored.", private=str(error))]
            half = len(items) // 2
            return [*await self.commit(items[:half]), *await self.commit(items[half:])]
        return [_STORED] * len(items)

    async def close(self) -> None:
        """See BatchSink.close."""
        await self._connection.close()


class PostgresSettlingStore:
    """Empties slots. A SettlingStore."""

    def __init__(self, *, connection: WriterConnection) -> None:
        self._connection = connection

    async def settle_slot(
        self, slot: int, *, grace_s: float, decide: Callable[[Sequence[OpenWitness]], Settlement]
    ) -> int | None:
        """See SettlingStore.settle_slot.

        The slot is locked against everybody before it is read: a witness that is written into it late commits before
        the lock is given, or waits until the slot has been emptied and stays for the next time.
        """
        table = sql.Identifier(f"witnesses_{slot}")
        async with self._connection.use() as connection:
            if await _first(connection, sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table)) is not True:
                return None
            try:
                async with connection.transaction():
                    await connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(table))
                    ripe = sql.SQL("SELECT max(received_at) < now() - make_interval(secs => {}) FROM {}")
                    if await _first(connection, ripe.format(grace_s, table)) is not True:
                        return None
                    written = await _settle(connection, table, decide)
                    await connection.execute(sql.SQL("TRUNCATE {}").format(table))
                    return written
            except psycopg.errors.LockNotAvailable:
                return None

    async def close(self) -> None:
        """Gives the connection back."""
        await self._connection.close()


async def _settle(
    connection: Connection, table: sql.Identifier, decide: Callable[[Sequence[OpenWitness]], Settlement]
) -> int:
    # The planner knows nothing of a slot that was empty a moment ago, and a hash join would read whole months.
    await connection.execute("SET LOCAL enable_hashjoin = off")
    await connection.execute("SET LOCAL enable_mergejoin = off")
    columns = sql.SQL(", ").join(sql.Identifier("u", name) for name in COLUMNS)
    written = 0
    last_id = b""
    async with connection.cursor(name="open_witnesses") as cursor:
        await cursor.execute(sql.SQL(_OPEN).format(columns=columns, slot=table))
        while rows := await cursor.fetchmany(_FETCH_ROWS):
            opened: list[OpenWitness] = []
            for row in rows:
                item = _open_witness(row)
                # A node repeats itself, or two nodes worked on the request: the first in order settles it.
                if item.stored is not None or item.witness.request_id != last_id:
                    opened.append(item)
                last_id = item.witness.request_id
            written += await _write(connection, decide(opened))
    return written


async def _write(connection: Connection, settlement: Settlement) -> int:
    if settlement.records:
        await copy_usage(connection, [usage_row(LedgerRow(record)) for record in settlement.records])
    if settlement.differences:
        async with connection.cursor() as cursor:
            await cursor.executemany(_ADD_DIFFERENCE, [_difference_values(each) for each in settlement.differences])
    if settlement.unpaid:
        async with connection.cursor() as cursor:
            await cursor.executemany(_ADD_UNPAID, [_unpaid_values(each) for each in settlement.unpaid])
    return len(settlement.records)


async def _first(connection: Connection, query: sql.Composed) -> object:
    cursor = await connection.execute(query)
    row = await cursor.fetchone()
    return None if row is None else row[0]


def _open_witness(values: tuple[Any, ...]) -> OpenWitness:
    request_id, node_id, context, prompt, cached, completion, source, outcome, duration_us, *stored = values
    witness = Witness(
        request_id=request_id.bytes,
        node_id=node_id,
        context=context,
        counts=Counts(prompt, cached, completion, source),
        outcome=outcome,
        duration_us=duration_us,
    )
    return OpenWitness(witness, None if stored[0] is None else ledger_row(tuple(stored)))


def _unpaid_values(witness: Witness) -> tuple[object, ...]:
    counts = witness.counts
    return (
        UUID(bytes=witness.request_id),
        witness.node_id,
        witness.outcome,
        counts.prompt_tokens,
        counts.cached_prompt_tokens,
        counts.completion_tokens,
    )


def _difference_values(difference: Difference) -> tuple[object, ...]:
    witness, gateway = difference.witness, difference.gateway_counts
    return (
        UUID(bytes=witness.request_id),
        witness.node_id,
        gateway.prompt_tokens,
        gateway.cached_prompt_tokens,
        gateway.completion_tokens,
        difference.gateway_outcome,
        witness.counts.prompt_tokens,
        witness.counts.cached_prompt_tokens,
        witness.counts.completion_tokens,
        witness.outcome,
    )
