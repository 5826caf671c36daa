"""The ledger's rows in the order in which they became durable, for readers with a cursor."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from crosslogic_accountant.domain import LedgerRow
from crosslogic_accountant.ledger_rows import ledger_row, selected
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction

BILLING = "billing"
_COMMITS = """
    SELECT batch, last_sequence - row_count FROM usage_commits
    WHERE last_sequence > %(after)s AND last_sequence - row_count < %(upto)s
    ORDER BY last_sequence LIMIT %(limit)s
"""
_ROWS = (
    f"SELECT u.batch, u.record_time, {selected('u')} FROM usage_records u "  # our own column names
    "WHERE u.batch = ANY(%s) ORDER BY u.batch, u.request_id, u.revision"
)
_SETTLE = """
    INSERT INTO readers (name, sequence) VALUES (%s, %s)
    ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence, update_time = now()
    WHERE readers.sequence < excluded.sequence
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the ledger at its place."""

    sequence: int
    row: LedgerRow
    record_time: datetime


class RecordLog:
    """Reads the ledger in order."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def read(self, after: int, *, limit: int, reader: str = "") -> tuple[list[Entry], int]:
        """Up to `limit` rows after sequence `after`, and the ledger's last sequence.

        A named `reader` has settled everything up to `after`. Raises CONFLICT when the ledger does not reach `after`
        (it was restored from an older copy, say) or when rows after it are no longer kept; UNAVAILABLE.
        """
        async with transaction(self._pool) as connection:
            last, dropped = await self._head(connection)
            if after > last:
                raise CodedError(ErrorCode.CONFLICT, f"The ledger ends at sequence {last}.", param="after_sequence")
            if after < dropped:
                raise CodedError(
                    ErrorCode.CONFLICT, f"Rows up to sequence {dropped} are no longer kept.", param="after_sequence"
                )
            if reader and after > 0:
                await connection.execute(_SETTLE, (reader, after))
            # Added up here: the database would add two small numbers as small numbers, and 32,767 is the largest.
            cursor = await connection.execute(_COMMITS, {"after": after, "upto": after + limit, "limit": limit})
            firsts = {int(batch): int(first) for batch, first in await cursor.fetchall()}
            entries = await self._entries(connection, firsts) if firsts else []
        return [entry for entry in entries if after < entry.sequence <= after + limit], last

    async def _head(self, connection: Connection) -> tuple[int, int]:
        cursor = await connection.execute("SELECT last_sequence, dropped_sequence FROM usage_head")
        row = await cursor.fetchone()
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    async def _entries(self, connection: Connection, firsts: dict[int, int]) -> list[Entry]:
        cursor = await connection.execute(_ROWS.encode(), (list(firsts),))
        entries: list[Entry] = []
        for batch, rows in groupby(await cursor.fetchall(), key=lambda row: int(row[0])):
            entries += _numbered(list(rows), firsts[batch])
        return sorted(entries, key=lambda entry: entry.sequence)


def _numbered(rows: Sequence[tuple[object, ...]], first: int) -> list[Entry]:
    return [
        Entry(number, ledger_row(row[2:]), row[1])  # type: ignore[arg-type]  # the columns asked for
        for number, row in enumerate(rows, first + 1)
    ]
