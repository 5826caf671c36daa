"""All SQL of credits."""

import uuid
from collections.abc import Mapping
from datetime import date, datetime

from crosslogic_billing.export.domain import Credit
from crosslogic_billing.rating.policy import PICODOLLARS_A_CENT
from crosslogic_common.postgres import Connection, Pool, transaction

_SPACE = uuid.UUID("b0a5a0f4-6f3c-5b1e-8f0a-2f4c7f6f2d11")


async def add_credits(
    connection: Connection,
    *,
    org_id: str,
    month: date,
    customer_id: str,
    amounts: Mapping[str, int],
    now: datetime,
) -> None:
    """Lets credits be given, in the transaction of what causes them; pico-dollars by category, whole cents."""
    for category, amount in amounts.items():
        found = await connection.execute(
            "SELECT count(*) FROM credits WHERE org_id = %s AND month = %s AND category = %s", (org_id, month, category)
        )
        row = await found.fetchone()
        number = 0 if row is None else int(row[0])
        await connection.execute(
            "INSERT INTO credits (id, org_id, customer_id, month, category, number, cents, created_at, due_at) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (
                str(uuid.uuid5(_SPACE, f"{org_id}|{month.isoformat()}|{category}|{number}")),
                org_id,
                customer_id,
                month,
                category,
                number,
                amount // PICODOLLARS_A_CENT,
                now,
                now,
            ),
        )
        await connection.execute(
            "UPDATE month_exports SET credited = credited + %s "
            "WHERE org_id = %s AND month = %s AND category = %s AND unit = 'picodollars'",
            (amount, org_id, month, category),
        )


class PostgresCredits:
    """Credits in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def begin(self, now: datetime, until: datetime) -> Credit | None:
        """The next credit that is due, about to be given and leased until then. None: there is none."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "UPDATE credits SET leased_until = %s, attempts = attempts + 1 WHERE id = ("
                "SELECT id FROM credits WHERE given_at IS NULL AND due_at <= %s "
                "AND (leased_until IS NULL OR leased_until < %s) ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED) "
                "RETURNING id, org_id, customer_id, month, category, cents, attempts, answered",
                (until, now, now),
            )
            row = await found.fetchone()
        if row is None:
            return None
        return Credit(
            id=str(row[0]),
            org_id=str(row[1]),
            customer_id=row[2],
            month=row[3],
            category=row[4],
            cents=row[5],
            attempts=row[6],
            answered=row[7],
        )

    async def given(self, credit: Credit, now: datetime) -> None:
        """Stripe has it."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE credits SET given_at = %s, leased_until = NULL, last_error = '' WHERE id = %s",
                (now, credit.id),
            )

    async def failed(self, credit: Credit, reason: str, *, answered: bool, due_at: datetime) -> None:
        """It is tried again then. `answered`: Stripe said so itself."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE credits SET due_at = %s, leased_until = NULL, last_error = %s, answered = answered + %s "
                "WHERE id = %s AND given_at IS NULL",
                (due_at, reason[:500], int(answered), credit.id),
            )
