"""All SQL of posting."""

from datetime import date, datetime

from crosslogic_billing.accounts.store import terms_of
from crosslogic_billing.posting import policy
from crosslogic_billing.posting.domain import Transfer
from crosslogic_billing.rating import policy as rating
from crosslogic_billing.rating.domain import Priced
from crosslogic_common.postgres import Connection, Pool, transaction


async def add_transfer(connection: Connection, transfer: Transfer, now: datetime) -> None:
    """Lets a transfer be posted, in the transaction of what causes it. Twice: once."""
    await connection.execute(
        "INSERT INTO transfers (id, org_id, kind, debit, credit, amount, reference, created_at) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING",
        (
            transfer.id,
            transfer.org_id,
            transfer.kind,
            transfer.debit,
            transfer.credit,
            transfer.amount,
            transfer.reference,
            now,
        ),
    )


class PostgresTransfers:
    """Transfers in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def adjust(self, now: datetime, adjusted_before: datetime, limit: int) -> int:
        """Makes transfers of months whose charge has changed and that had none lately. How many months there were."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT org_id, month FROM org_months WHERE adjust_due "
                "AND (adjusted_at IS NULL OR adjusted_at < %s) ORDER BY adjusted_at NULLS FIRST LIMIT %s",
                (adjusted_before, limit),
            )
            months = [(str(org_id), month) for org_id, month in await found.fetchall()]
        for org_id, month in months:
            async with transaction(self._pool) as connection:
                await _adjust(connection, org_id, month, now)
        return len(months)

    async def open(self, limit: int) -> list[Transfer]:
        """Transfers that wait to be posted, the oldest first."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT id, org_id, kind, debit, credit, amount, reference FROM transfers "
                "WHERE posted_at IS NULL AND refused = '' ORDER BY created_at, id LIMIT %s",
                (limit,),
            )
            return [
                Transfer(
                    id=str(row[0]),
                    org_id=str(row[1]),
                    kind=row[2],
                    debit=row[3],
                    credit=row[4],
                    amount=int(row[5]),
                    reference=row[6],
                )
                for row in await found.fetchall()
            ]

    async def posted(self, id_: str, now: datetime) -> None:
        """The money ledger has it."""
        async with transaction(self._pool) as connection:
            await connection.execute("UPDATE transfers SET posted_at = %s WHERE id = %s", (now, id_))

    async def refused(self, id_: str, reason: str) -> None:
        """The money ledger will never take it: somebody has to look."""
        async with transaction(self._pool) as connection:
            await connection.execute("UPDATE transfers SET refused = %s WHERE id = %s", (reason[:500], id_))


async def _adjust(connection: Connection, org_id: str, month: date, now: datetime) -> None:
    found = await connection.execute(
        "SELECT adjusted, adjustments FROM org_months WHERE org_id = %s AND month = %s FOR UPDATE", (org_id, month)
    )
    row = await found.fetchone()
    if row is None:
        return
    told, number = int(row[0]), int(row[1])
    terms = await terms_of(connection, org_id, month)
    found = await connection.execute(
        "SELECT category, price, tokens, all_tokens FROM month_usage WHERE org_id = %s AND month = %s", (org_id, month)
    )
    rows = await found.fetchall()
    usage = {Priced(category, price): tokens for category, price, tokens, _ in rows}
    at_list = sum(price * everything for _, price, _, everything in rows)
    target = policy.adjustment_of(rating.statement(month, terms, usage), at_list)
    if target != told:
        transfer = policy.adjustment(org_id=org_id, month=month, terms=terms, number=number, amount=target - told)
        await add_transfer(connection, transfer, now)
    await connection.execute(
        "UPDATE org_months SET adjust_due = false, adjusted_at = %s, adjusted = %s, adjustments = adjustments + %s "
        "WHERE org_id = %s AND month = %s",
        (now, target, int(target != told), org_id, month),
    )
