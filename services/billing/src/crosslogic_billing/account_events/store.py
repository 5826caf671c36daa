"""Events of accounts: only ever added to."""

from dataclasses import dataclass
from datetime import datetime

from crosslogic_common.postgres import Connection, Pool, transaction


@dataclass(frozen=True, slots=True)
class AccountEvent:
    """Something that happened to an account."""

    sequence: int
    kind: str
    org_id: str
    subject: str
    event_time: datetime
    text: str


async def add_account_event(
    connection: Connection, *, kind: str, org_id: str, at: datetime, text: str, subject: str = ""
) -> None:
    """Notes what happened, in the caller's transaction. Of a `subject`, the first of a kind."""
    # One writer at a time, to the end of its transaction: a reader of the order would else miss who commits late.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('billing.account_events'))")
    await connection.execute(
        "INSERT INTO account_events (kind, org_id, subject, event_time, text) VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT DO NOTHING",
        (kind, org_id, subject, at, text),
    )


class PostgresAccountEvents:
    """Events in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def after(self, sequence: int, limit: int) -> list[AccountEvent]:
        """Events after a sequence, in order."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT sequence, kind, org_id::text, subject, event_time, text FROM account_events "
                "WHERE sequence > %s ORDER BY sequence LIMIT %s",
                (sequence, limit),
            )
            return [AccountEvent(*row) for row in await found.fetchall()]
