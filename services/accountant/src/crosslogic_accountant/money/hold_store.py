"""All SQL of holds: reserve, then post no more than that, void or expire, once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from crosslogic_accountant.budgets.spend_store import hold_budgets, release_budgets
from crosslogic_accountant.money.domain import Account, Credit, Hold, HoldState, Transfer, TransferKind
from crosslogic_accountant.money.policy import credit_for, held, resolution_id, resolved
from crosslogic_accountant.money.store import add_transfers, lock_balances, open_accounts
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction

_ATTEMPTS = 3
_EXPIRE_AT_ONCE = 200
_HOLD = """
    SELECT h.id, h.org_id, h.environment_id, h.api_key_id, h.amount_picodollars, h.prepaid,
           h.free_picodollars, h.prepaid_picodollars, e.state, e.amount_picodollars
    FROM holds h LEFT JOIN hold_ends e ON e.hold_id = h.id WHERE h.id = %s
"""
_ADD_HOLD = """
    INSERT INTO holds (id, org_id, environment_id, api_key_id, amount_picodollars, prepaid, free_picodollars,
                       prepaid_picodollars, expire_time)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s)) RETURNING expire_time
"""
_OVER = """
    SELECT o.hold_id FROM open_holds o
    WHERE o.expire_time < now() ORDER BY o.expire_time LIMIT %s FOR UPDATE SKIP LOCKED
"""


@dataclass(frozen=True, slots=True)
class StoredHold:
    """A hold as it was made, and how it ended."""

    hold: Hold
    credit: Credit
    state: HoldState
    spent_picodollars: int


class HoldStore:
    """Holds and their ends."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def reserve(self, hold: Hold, *, expires_in_s: int) -> bool:
        """Holds it; True when it was held before. Raises RATE_LIMITED, CONFLICT, UNAVAILABLE."""
        for _ in range(_ATTEMPTS):
            try:
                async with transaction(self._pool) as connection:
                    stored = await _find(connection, hold.id)
                    if stored is None:
                        await self._reserve(connection, hold, expires_in_s)
                    elif stored.hold != hold:
                        raise CodedError(ErrorCode.CONFLICT, "That id belongs to another hold.", param="id")
                return stored is not None
            except psycopg.errors.UniqueViolation:
                continue  # the same call came twice at once: the other one is first
        raise CodedError(ErrorCode.UNAVAILABLE, private="others kept making the hold", retry_after_s=1.0)

    async def resolve(self, hold_id: UUID, spent: int) -> tuple[StoredHold, bool]:
        """Ends a hold of which `spent` was used; how it ended, and whether it had ended before.

        Raises NOT_FOUND, INVALID_ARGUMENT, UNAVAILABLE.
        """
        async with transaction(self._pool) as connection:
            # The lock first: whoever has it sees how the hold stands.
            await connection.execute("SELECT 1 FROM open_holds WHERE hold_id = %s FOR UPDATE", (hold_id,))
            stored = await _find(connection, hold_id)
            if stored is None:
                raise CodedError(ErrorCode.NOT_FOUND, "There is no such hold.", param="id")
            if stored.state is not HoldState.PENDING:
                return stored, True
            if spent > stored.hold.amount_picodollars:
                raise CodedError(ErrorCode.INVALID_ARGUMENT, "That is more than was held.", param="amount_picodollars")
            if spent:
                # The record is still to come: until then budgets keep what was spent.
                await connection.execute(
                    "UPDATE open_holds SET posted_picodollars = %s, expire_time = now() + interval '40 days' "
                    "WHERE hold_id = %s",
                    (spent, hold_id),
                )
            else:
                await connection.execute("DELETE FROM open_holds WHERE hold_id = %s", (hold_id,))
            await release_budgets(connection, [hold_id], keep=spent)
            state = HoldState.POSTED if spent else HoldState.VOID
            await end_holds(connection, [(stored, spent, state)])
        return StoredHold(stored.hold, stored.credit, state, spent), False

    async def expire(self) -> int:
        """Voids holds whose time is over; returns how many there were."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(_OVER, (_EXPIRE_AT_ONCE,))
            ids = [row[0] for row in await cursor.fetchall()]
            if not ids:
                return 0
            stored = [each for each in [await _find(connection, hold_id) for hold_id in ids] if each is not None]
            await connection.execute("DELETE FROM open_holds WHERE hold_id = ANY(%s)", (ids,))
            await release_budgets(connection, ids)
            pending = [each for each in stored if each.state is HoldState.PENDING]
            await end_holds(connection, [(each, 0, HoldState.EXPIRED) for each in pending])
        return len(ids)

    async def _reserve(self, connection: Connection, hold: Hold, expires_in_s: int) -> None:
        budgets = await hold_budgets(
            connection,
            org_id=hold.org_id,
            environment_id=hold.environment_id,
            api_key_id=hold.api_key_id,
            amount=hold.amount_picodollars,
        )
        credit: Credit | None = Credit(0, 0)
        if hold.prepaid:
            await open_accounts(connection, hold.org_id, [Account.RESERVED])
            balances = await lock_balances(connection, [hold.org_id])
            credit = credit_for(hold.amount_picodollars, balances[hold.org_id])
        if credit is None:
            raise CodedError(ErrorCode.RATE_LIMITED, "The organisation's credit does not cover this request.")
        cursor = await connection.execute(
            _ADD_HOLD,
            (
                *(hold.id, hold.org_id, hold.environment_id, hold.api_key_id, hold.amount_picodollars, hold.prepaid),
                *(credit.free_picodollars, credit.prepaid_picodollars, expires_in_s),
            ),
        )
        row = await cursor.fetchone()
        await connection.execute(
            "INSERT INTO open_holds (hold_id, expire_time) VALUES (%s, %s)", (hold.id, row and row[0])
        )
        async with connection.cursor() as writer:
            await writer.executemany(
                "INSERT INTO hold_budgets (hold_id, budget_id, period_start, held_picodollars) VALUES (%s, %s, %s, %s)",
                [(hold.id, each.budget_id, each.period_start, hold.amount_picodollars) for each in budgets],
            )
        if hold.prepaid:
            await add_transfers(
                connection,
                [Transfer(hold.id, hold.org_id, TransferKind.HOLD, held(credit), reference=f"request {hold.id}")],
            )


async def end_holds(
    connection: Connection, ends: Sequence[tuple[StoredHold, int, HoldState]], *, lock: bool = True
) -> list[Transfer]:
    """Writes how pending holds ended and moves their money; what was posted. The caller owns their open rows."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO hold_ends (hold_id, state, amount_picodollars) VALUES (%s, %s, %s)",
            [(stored.hold.id, state, spent) for stored, spent, state in ends],
        )
    paid = [(stored, spent) for stored, spent, _ in ends if stored.hold.prepaid]
    transfers = [
        Transfer(
            id=resolution_id(stored.hold.id),
            org_id=stored.hold.org_id,
            kind=TransferKind.RESOLUTION,
            postings=resolved(stored.credit, spent),
            reference=f"request {stored.hold.id}",
        )
        for stored, spent in paid
    ]
    if transfers:
        if lock:
            await lock_balances(connection, {each.org_id for each in transfers})
        for org_id in sorted({each.org_id for each in transfers}):
            await open_accounts(connection, org_id, [Account.REVENUE])
        await add_transfers(connection, transfers)
    return transfers


async def _find(connection: Connection, hold_id: UUID) -> StoredHold | None:
    cursor = await connection.execute(_HOLD, (hold_id,))
    row = await cursor.fetchone()
    return None if row is None else stored_hold(row)


def stored_hold(row: tuple[Any, ...]) -> StoredHold:
    """A hold from the columns of `_HOLD`."""
    return StoredHold(
        hold=Hold(
            id=row[0],
            org_id=row[1],
            environment_id=row[2],
            api_key_id=row[3],
            amount_picodollars=int(row[4]),
            prepaid=row[5],
        ),
        credit=Credit(free_picodollars=int(row[6]), prepaid_picodollars=int(row[7])),
        state=HoldState.PENDING if row[8] is None else HoldState(row[8]),
        spent_picodollars=0 if row[9] is None else int(row[9]),
    )
