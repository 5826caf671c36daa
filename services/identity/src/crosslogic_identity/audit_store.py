"""The audit log in PostgreSQL: all its SQL."""

from collections.abc import Sequence
from typing import LiteralString

from psycopg.rows import TupleRow

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_identity.audit import AuditEntry, AuditRecord, Head, next_record
from crosslogic_identity.domain import Actor

_PLACES: LiteralString = ", ".join(["%s"] * 18)
_COLUMNS: LiteralString = (
    "seq, at, actor_kind, actor_id, actor_name, actor_org_id, address, request_id, action, outcome, org_id, "
    "object_kind, object_id, before, after, reason, previous_hash, hash"
)


async def append(connection: Connection, entry: AuditEntry) -> AuditRecord:
    """Writes a record in the caller's transaction, as its last step: the lock on the head is held until it ends."""
    cursor = await connection.execute("SELECT seq, hash, clock_timestamp() FROM audit_head FOR UPDATE")
    row = await cursor.fetchone()
    if row is None:
        raise CodedError(ErrorCode.INTERNAL, private="the audit log has no head")
    record = next_record(Head(row[0], bytes(row[1])), row[2], entry)
    actor = entry.actor
    await connection.execute(
        f"INSERT INTO audit ({_COLUMNS}) VALUES ({_PLACES})",
        (
            record.seq,
            record.at,
            actor.kind,
            actor.id,
            actor.name,
            actor.org_id,
            actor.address,
            actor.request_id,
            entry.action,
            entry.outcome,
            entry.org_id,
            entry.object_kind,
            entry.object_id,
            entry.before,
            entry.after,
            entry.reason,
            record.previous_hash,
            record.hash,
        ),
    )
    await connection.execute("UPDATE audit_head SET seq = %s, hash = %s", (record.seq, record.hash))
    return record


class PostgresAuditStore:
    """Implements ports.AuditStore."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record(self, entry: AuditEntry) -> AuditRecord:
        """See ports.AuditStore."""
        async with transaction(self._pool) as connection:
            return await append(connection, entry)

    async def records(
        self, *, before_seq: int, limit: int, org_id: str = "", object_id: str = "", action: str = ""
    ) -> list[AuditRecord]:
        """See ports.AuditStore."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_COLUMNS} FROM audit WHERE seq < %(before)s AND (%(org)s = '' OR org_id = %(org)s) "
                "AND (%(object)s = '' OR object_id = %(object)s) AND (%(action)s = '' OR action = %(action)s) "
                "ORDER BY seq DESC LIMIT %(limit)s",
                {"before": before_seq, "org": org_id, "object": object_id, "action": action, "limit": limit},
            )
            return [_record(row) for row in await cursor.fetchall()]

    async def span(self, from_seq: int, up_to_seq: int) -> tuple[Sequence[AuditRecord], Head]:
        """See ports.AuditStore."""
        async with transaction(self._pool) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor = await connection.execute("SELECT seq, hash FROM audit_head")
            head = await cursor.fetchone()
            cursor = await connection.execute(
                f"SELECT {_COLUMNS} FROM audit WHERE seq BETWEEN %s AND %s ORDER BY seq", (from_seq, up_to_seq)
            )
            found = [_record(row) for row in await cursor.fetchall()]
        return found, Head(0, b"") if head is None else Head(head[0], bytes(head[1]))


def _record(row: TupleRow) -> AuditRecord:
    actor = Actor(row[2], row[3], row[4], row[5], row[6], row[7])
    entry = AuditEntry(
        actor=actor,
        action=row[8],
        outcome=row[9],
        org_id=row[10],
        object_kind=row[11],
        object_id=row[12],
        before=row[13],
        after=row[14],
        reason=row[15],
    )
    return AuditRecord(row[0], row[1], entry, bytes(row[16]), bytes(row[17]))
