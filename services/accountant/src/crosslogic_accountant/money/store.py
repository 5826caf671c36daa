"""All SQL of the books: transfers, balances, checks."""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import psycopg

from crosslogic_accountant.money.domain import Account, PostedTransfer, Transfer, TransferKind
from crosslogic_accountant.money.policy import charged, usage_transfer_id
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction

MAX_PROBLEMS = 100
_ADD_TRANSFER = """
    INSERT INTO transfers (id, org_id, kind, posting_count, reason, reference) VALUES (%s, %s, %s, %s, %s, %s)
"""
_ADD_POSTING = """
    INSERT INTO postings (transfer_id, account_id, amount_picodollars)
    SELECT %s, id, %s FROM accounts WHERE org_id = %s AND kind = %s
"""
_TRANSFERS = """
    SELECT t.id, t.org_id, t.kind, t.reason, t.reference, t.post_time, t.number,
           array_agg(a.kind ORDER BY a.kind), array_agg(p.amount_picodollars ORDER BY a.kind)
    FROM transfers t JOIN postings p ON p.transfer_id = t.id JOIN accounts a ON a.id = p.account_id
    WHERE {condition} GROUP BY t.id ORDER BY t.number DESC LIMIT %(limit)s
"""
_CHECKS = {
    "transfers that do not balance": """
        SELECT t.id::text FROM transfers t LEFT JOIN postings p ON p.transfer_id = t.id
        WHERE %(org)s::uuid IS NULL OR t.org_id = %(org)s
        GROUP BY t.id HAVING coalesce(sum(p.amount_picodollars), 1) <> 0 OR count(*) <> t.posting_count LIMIT 20""",
    "accounts whose balance is not the sum of their postings": """
        SELECT a.id::text FROM accounts a LEFT JOIN postings p ON p.account_id = a.id
        WHERE %(org)s::uuid IS NULL OR a.org_id = %(org)s
        GROUP BY a.id HAVING a.balance_picodollars <> coalesce(sum(p.amount_picodollars), 0) LIMIT 20""",
    "organisations whose reserved money is not what is held": """
        SELECT coalesce(a.org_id, h.org_id)::text
        FROM (SELECT org_id, -balance_picodollars AS reserved FROM accounts WHERE kind = 4) a
        FULL JOIN (
            SELECT h.org_id, sum(h.free_picodollars + h.prepaid_picodollars) AS held
            FROM open_holds o JOIN holds h ON h.id = o.hold_id WHERE o.posted_picodollars IS NULL GROUP BY 1
        ) h ON h.org_id = a.org_id
        WHERE (%(org)s::uuid IS NULL OR coalesce(a.org_id, h.org_id) = %(org)s)
          AND coalesce(a.reserved, 0) <> coalesce(h.held, 0) LIMIT 20""",
    "holds past their time": """
        SELECT o.hold_id::text FROM open_holds o JOIN holds h ON h.id = o.hold_id
        WHERE o.posted_picodollars IS NULL AND o.expire_time < now() - interval '5 minutes'
          AND (%(org)s::uuid IS NULL OR h.org_id = %(org)s) LIMIT 20""",
    "budgets whose held amount is not what is held": """
        SELECT s.budget_id::text FROM budget_spend s JOIN budgets b ON b.id = s.budget_id
        LEFT JOIN hold_budgets h ON h.budget_id = s.budget_id AND h.period_start = s.period_start
        WHERE %(org)s::uuid IS NULL OR b.org_id = %(org)s
        GROUP BY s.budget_id, s.period_start
        HAVING s.held_picodollars <> coalesce(sum(h.held_picodollars), 0) LIMIT 20""",
}


class MoneyStore:
    """The books."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def post(self, transfer: Transfer) -> bool:
        """Posts a balanced transfer; True when it had been posted before. Raises CONFLICT, UNAVAILABLE."""
        try:
            async with transaction(self._pool) as connection:
                await _open_accounts(connection, {transfer.org_id}, transfer.postings)
                await add_transfers(connection, [transfer])
        except psycopg.errors.UniqueViolation:
            return await self._same(transfer)
        except psycopg.errors.CheckViolation as error:
            raise CodedError(ErrorCode.CONFLICT, "There is not so much credit.", private=str(error)) from error
        return False

    async def balances(self, org_id: UUID) -> tuple[dict[Account, int], int]:
        """Each account that was posted to, and the last row of the usage ledger whose cost is in them."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT kind, balance_picodollars, (SELECT sequence FROM readers WHERE name = 'rollups') "
                "FROM accounts WHERE org_id = %s ORDER BY kind",
                (org_id,),
            )
            rows = await cursor.fetchall()
        return {Account(row[0]): int(row[1]) for row in rows}, int(rows[0][2] or 0) if rows else 0

    async def transfers(self, org_id: UUID, *, before: int | None, limit: int) -> list[PostedTransfer]:
        """An organisation's transfers below a number, newest first."""
        condition = "t.org_id = %(org)s AND (%(before)s::bigint IS NULL OR t.number < %(before)s)"
        values = {"org": org_id, "before": before, "limit": limit}
        async with transaction(self._pool) as connection:
            return await _transfers(connection, condition, values)

    async def check(self, org_id: UUID | None) -> tuple[list[str], int, int, int]:
        """What is wrong with the books, how many transfers there are, the sums of all debits and credits."""
        problems: list[str] = []
        async with transaction(self._pool, timeout_s=300.0) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            await connection.execute("SET LOCAL statement_timeout = '300s'")
            for what, query in _CHECKS.items():
                cursor = await connection.execute(query.encode(), {"org": org_id})
                found = [str(row[0]) for row in await cursor.fetchall()]
                problems += [f"{what}: {each}" for each in found]
            cursor = await connection.execute(
                "SELECT count(DISTINCT p.transfer_id), "
                "coalesce(sum(p.amount_picodollars) FILTER (WHERE p.amount_picodollars > 0), 0), "
                "coalesce(-sum(p.amount_picodollars) FILTER (WHERE p.amount_picodollars < 0), 0) "
                "FROM postings p JOIN accounts a ON a.id = p.account_id "
                "WHERE %(org)s::uuid IS NULL OR a.org_id = %(org)s",
                {"org": org_id},
            )
            row = await cursor.fetchone()
        count, debited, credited = row or (0, 0, 0)
        return problems[:MAX_PROBLEMS], int(count), int(debited), int(credited)

    async def _same(self, transfer: Transfer) -> bool:
        async with transaction(self._pool) as connection:
            stored = await _transfers(connection, "t.id = %(id)s", {"id": transfer.id, "limit": 1})
        if not stored or stored[0].transfer != transfer:
            raise CodedError(ErrorCode.CONFLICT, "That id belongs to another transfer.", param="id")
        return True


async def charge_usage(connection: Connection, costs: Mapping[UUID, int], *, after: int, reached: int) -> None:
    """Posts what the rows after a sequence and up to another cost, by organisation, in the caller's transaction."""
    owing = {org_id: cost for org_id, cost in sorted(costs.items()) if cost}
    if not owing:
        return
    balances = await lock_balances(connection, owing)
    transfers = [
        Transfer(
            id=usage_transfer_id(org_id, after, reached),
            org_id=org_id,
            kind=TransferKind.USAGE,
            postings=charged(cost, balances[org_id]),
            reference=f"usage {after + 1}-{reached}",
        )
        for org_id, cost in owing.items()
    ]
    for transfer in transfers:
        await _open_accounts(connection, {transfer.org_id}, transfer.postings, known=balances[transfer.org_id])
    await add_transfers(connection, transfers)


async def lock_balances(connection: Connection, org_ids: Iterable[UUID]) -> dict[UUID, dict[Account, int]]:
    """Balances that stay as they are until the transaction ends. Accounts are always locked in this order."""
    wanted = sorted(org_ids)
    cursor = await connection.execute(
        "SELECT org_id, kind, balance_picodollars FROM accounts WHERE org_id = ANY(%s) "
        "ORDER BY org_id, kind FOR UPDATE",
        (wanted,),
    )
    balances: dict[UUID, dict[Account, int]] = {org_id: {} for org_id in wanted}
    for org_id, kind, balance in await cursor.fetchall():
        balances[org_id][Account(kind)] = int(balance)
    return balances


async def add_transfers(connection: Connection, transfers: Sequence[Transfer]) -> None:
    """Adds transfers whose accounts exist. Raises UniqueViolation (an id is there), CheckViolation (an overdraft)."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            _ADD_TRANSFER,
            [(each.id, each.org_id, each.kind, len(each.postings), each.reason, each.reference) for each in transfers],
        )
        await cursor.executemany(
            _ADD_POSTING,
            [
                (each.id, amount, each.org_id, account)
                for each in transfers
                for account, amount in sorted(each.postings.items())
            ],
        )


async def open_accounts(connection: Connection, org_id: UUID, accounts: Iterable[Account]) -> None:
    """Makes accounts that are missing."""
    await _open_accounts(connection, {org_id}, accounts)


async def _open_accounts(
    connection: Connection,
    org_ids: Iterable[UUID],
    accounts: Iterable[Account],
    *,
    known: Mapping[Account, int] | None = None,
) -> None:
    missing = sorted(account for account in accounts if account not in (known or {}))
    if not missing:
        return
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO accounts (org_id, kind) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [(org_id, account) for org_id in sorted(org_ids) for account in missing],
        )


async def _transfers(connection: Connection, condition: str, values: Mapping[str, object]) -> list[PostedTransfer]:
    cursor = await connection.execute(_TRANSFERS.format(condition=condition).encode(), values)
    return [
        PostedTransfer(
            Transfer(
                id=row[0],
                org_id=row[1],
                kind=TransferKind(row[2]),
                postings={Account(kind): int(amount) for kind, amount in zip(row[7], row[8], strict=True)},
                reason=row[3],
                reference=row[4],
            ),
            post_time=row[5],
            number=int(row[6]),
        )
        for row in await cursor.fetchall()
    ]
