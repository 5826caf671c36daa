"""All SQL that writes usage records.

A batch is one COPY, which is one transaction: the cheapest way to durable rows that PostgreSQL has. It is sent in the
hope that every request is new. Only when the primary key refuses it are the stored rows read and the batch decided
record by record; after a broken commit that same way finds out what had been stored.
"""

from collections.abc import Sequence
from uuid import UUID

import psycopg

from crosslogic_accountant import policy
from crosslogic_accountant.copy_format import USAGE_COLUMNS, copy_data, usage_row
from crosslogic_accountant.domain import LedgerRow
from crosslogic_accountant.ledger_rows import ledger_row, selected
from crosslogic_accountant.metrics import LedgerMetrics
from crosslogic_accountant.policy import Verdict
from crosslogic_accountant.ports import PreparedRecord, Stored
from crosslogic_accountant.writer_connection import WriterConnection
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_common.postgres import Connection

_COPY = f"COPY usage_records ({USAGE_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_STORED = (
    f"SELECT {selected('u')} FROM usage_records u "  # our own column names
    "WHERE u.request_id = ANY(%s) ORDER BY u.request_id, u.revision"
)
_NEW = Stored()
_DUPLICATE = Stored(duplicate=True)

Result = Stored | CodedError


class LedgerStore:
    """Writes batches of records over one connection."""

    def __init__(self, *, connection: WriterConnection, metrics: LedgerMetrics) -> None:
        self._connection = connection
        self._metrics = metrics
        self._log = get_logger(__name__)

    async def commit(self, items: Sequence[PreparedRecord]) -> list[Result]:
        """See BatchSink.commit."""
        first: dict[bytes, PreparedRecord] = {}
        for item in items:
            kept = first.setdefault(item.record.request_id, item)
            if kept is not item:
                verdict = policy.judge(kept.record, item.record)
                self._report_if_different(verdict, item)
                if verdict is Verdict.CORRECT:
                    first[item.record.request_id] = item
        # In the key's order: two writers with the same requests wait for one another, never in a circle.
        fresh = [first[request_id] for request_id in sorted(first)]
        results = await self._store(fresh)
        answers: list[Result] = []
        for item in items:
            request_id = item.record.request_id
            answers.append(results[request_id])
            if results[request_id] is _NEW:
                results[request_id] = _DUPLICATE
        return answers

    async def close(self) -> None:
        """See BatchSink.close."""
        await self._connection.close()

    async def _store(self, items: Sequence[PreparedRecord]) -> dict[bytes, Result]:
        """`items` are in order and have different ids."""
        if not items:
            return {}
        try:
            async with self._connection.use() as connection:
                await copy_usage(connection, [item.row for item in items])
            return {item.record.request_id: _NEW for item in items}
        except psycopg.errors.UniqueViolation:
            pass
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            return await self._isolate(items, error)
        return await self._merge(items)

    async def _merge(self, items: Sequence[PreparedRecord]) -> dict[bytes, Result]:
        while True:
            try:
                async with self._connection.use() as connection, connection.transaction():
                    stored = await self._stored(connection, items)
                    rows: list[bytes] = []
                    results: dict[bytes, Result] = {}
                    for item in items:
                        found = stored.get(item.record.request_id)
                        results[item.record.request_id] = _DUPLICATE if found else _NEW
                        rows += self._against(found, item) if found else [item.row]
                    if rows:
                        await copy_usage(connection, rows)
                return results
            except psycopg.errors.UniqueViolation:
                # Another writer stored one of them since they were read: read again. Each round one of us gets on.
                continue
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                return await self._isolate(items, error)

    def _against(self, stored: Sequence[LedgerRow], item: PreparedRecord) -> list[bytes]:
        """`stored` are all rows of the item's request; the last one stands."""
        if any(row.requests > 0 and row.record == item.record for row in stored[:-1]):
            return []  # said before, and corrected since
        verdict = policy.judge(stored[-1].record, item.record)
        self._report_if_different(verdict, item)
        if verdict is not Verdict.CORRECT:
            return []
        self._metrics.corrected.inc()
        return [usage_row(row) for row in policy.correction(stored[-1], item.record)]

    async def _isolate(self, items: Sequence[PreparedRecord], error: psycopg.Error) -> dict[bytes, Result]:
        """The database refused something among `items`: halves them until it stands alone."""
        if len(items) == 1:
            request_id = items[0].record.request_id
            self._log.error("the database refused a record", request_id=str(UUID(bytes=request_id)), reason=str(error))
            return {
                request_id: CodedError(
                    ErrorCode.INVALID_ARGUMENT, "The record cannot be stored.", private=f"database: {error}"
                )
            }
        half = len(items) // 2
        return {**await self._store(items[:half]), **await self._store(items[half:])}

    async def _stored(self, connection: Connection, items: Sequence[PreparedRecord]) -> dict[bytes, list[LedgerRow]]:
        ids = [UUID(bytes=item.record.request_id) for item in items]
        cursor = await connection.execute(_STORED.encode(), (ids,))
        rows: dict[bytes, list[LedgerRow]] = {}
        for values in await cursor.fetchall():
            row = ledger_row(values)
            rows.setdefault(row.record.request_id, []).append(row)
        return rows

    def _report_if_different(self, verdict: Verdict, item: PreparedRecord) -> None:
        if verdict is Verdict.KEEP:
            self._metrics.conflicting.inc()
            self._log.error(
                "a second record of one request says something else; the first one stands",
                request_id=str(UUID(bytes=item.record.request_id)),
            )


async def copy_usage(connection: Connection, rows: Sequence[bytes]) -> None:
    """Adds packed rows. Raises UniqueViolation when one of them is there, and adds none."""
    async with connection.cursor() as cursor, cursor.copy(_COPY.encode()) as copy:
        await copy.write(copy_data(rows))
