"""All SQL of accounts."""

from datetime import date, datetime
from typing import LiteralString

from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from crosslogic_billing.account_events.store import add_account_event
from crosslogic_billing.accounts.domain import Account
from crosslogic_billing.accounts.terms_json import from_json, to_json
from crosslogic_billing.prices.policy import DEFAULT_CATEGORY, RESERVED_CATEGORY
from crosslogic_billing.rating.domain import Terms
from crosslogic_billing.rating.policy import month_bounds
from crosslogic_billing.standings.policy import month_terms
from crosslogic_billing.standings.store import plans_terms, standings_of
from crosslogic_common.postgres import Connection, Pool, transaction

_COLUMNS: LiteralString = (
    "org_id, coalesce(customer_id, ''), coalesce(subscription_id, ''), subscription_status, failing_since, suspended_at"
)


def account_of(row: TupleRow) -> Account:
    """A row of `_COLUMNS`."""
    return Account(
        org_id=str(row[0]),
        customer_id=row[1],
        subscription_id=row[2],
        subscription_status=row[3],
        failing_since=row[4],
        suspended_at=row[5],
    )


async def agreed_alone(connection: Connection, org_id: str, month: date) -> Terms | None:
    """What was agreed with the organisation itself for a month. None: nothing, its plan says it."""
    found = await connection.execute(
        "SELECT terms FROM account_terms WHERE org_id = %s AND from_month <= %s ORDER BY from_month DESC LIMIT 1",
        (org_id, month),
    )
    row = await found.fetchone()
    return None if row is None else from_json(row[0])


async def terms_of(connection: Connection, org_id: str, month: date) -> Terms:
    """The terms of a month: what was agreed alone, or its plan's, with what identity says of plan and capacity."""
    alone = await agreed_alone(connection, org_id, month)
    begins, ends = month_bounds(month, await time_zone_of(connection, org_id))
    orgs, plans = await standings_of(connection, org_id)
    documents = {} if alone is not None else await plans_terms(connection, {org.plan for org in orgs}, month)
    return month_terms(alone=alone, plans_terms=documents, orgs=orgs, plans=plans, begins=begins, ends=ends)


async def time_zone_of(connection: Connection, org_id: str) -> str:
    """Where its months begin. It cannot differ between months, or one would overlap another."""
    found = await connection.execute(
        "SELECT terms->>'time_zone' FROM account_terms WHERE org_id = %s ORDER BY from_month LIMIT 1", (org_id,)
    )
    row = await found.fetchone()
    return "UTC" if row is None else str(row[0])


class PostgresAccounts:
    """Accounts and terms in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def account(self, org_id: str) -> Account:
        """One organisation; an empty account where nothing is known of it."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(f"SELECT {_COLUMNS} FROM accounts WHERE org_id = %s", (org_id,))
            row = await found.fetchone()
        return Account(org_id=org_id) if row is None else account_of(row)

    async def by_customer(self, customer_id: str) -> Account | None:
        """The organisation of one of Stripe's customers."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(f"SELECT {_COLUMNS} FROM accounts WHERE customer_id = %s", (customer_id,))
            row = await found.fetchone()
        return None if row is None else account_of(row)

    async def terms(self, org_id: str, month: date) -> Terms:
        """The terms of a month."""
        async with transaction(self._pool) as connection:
            return await terms_of(connection, org_id, month)

    async def alone(self, org_id: str, month: date) -> Terms | None:
        """See `agreed_alone`."""
        async with transaction(self._pool) as connection:
            return await agreed_alone(connection, org_id, month)

    async def set_terms(self, org_id: str, from_month: date, terms: Terms) -> bool:
        """Agrees on terms from a month on. False: its time zone is another already."""
        async with transaction(self._pool) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 2))", (org_id,))
            found = await connection.execute(
                "SELECT count(*) FROM account_terms WHERE org_id = %s AND from_month <> %s", (org_id, from_month)
            )
            row = await found.fetchone()
            others = row is not None and int(row[0]) > 0
            used = await connection.execute("SELECT FROM org_months WHERE org_id = %s LIMIT 1", (org_id,))
            fixed = others or await used.fetchone() is not None
            if fixed and terms.time_zone != await time_zone_of(connection, org_id):
                return False
            await connection.execute(
                "INSERT INTO account_terms (org_id, from_month, terms) VALUES (%s, %s, %s) "
                "ON CONFLICT (org_id, from_month) DO UPDATE SET terms = excluded.terms, created_at = now()",
                (org_id, from_month, Jsonb(to_json(terms))),
            )
            # Months that have begun are rated again by what is agreed now.
            await connection.execute(
                "UPDATE org_months SET behind = true, adjust_due = true, credit_due = true "
                "WHERE org_id = %s AND month >= %s",
                (org_id, from_month),
            )
        return True

    async def categories(self) -> list[str]:
        """Every category that something may be charged as."""
        async with transaction(self._pool) as connection:
            found = await connection.execute("SELECT DISTINCT category FROM price_versions")
            return sorted({DEFAULT_CATEGORY, RESERVED_CATEGORY, *(str(row[0]) for row in await found.fetchall())})

    async def asked_customer(self, org_id: str, now: datetime) -> datetime | None:
        """Notes that a customer is about to be made; when it was first tried, if it was before."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "INSERT INTO accounts AS a (org_id, customer_asked_at) VALUES (%s, %s) "
                "ON CONFLICT (org_id) DO UPDATE SET customer_asked_at = coalesce(a.customer_asked_at, %s) "
                "RETURNING customer_asked_at",
                (org_id, now, now),
            )
            row = await found.fetchone()
        return None if row is None or row[0] == now else row[0]

    async def link(self, org_id: str, *, customer_id: str, subscription_id: str = "", status: str = "") -> None:
        """Who it is to Stripe."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "INSERT INTO accounts (org_id, customer_id, subscription_id, subscription_status) "
                "VALUES (%s, %s, nullif(%s, ''), %s) ON CONFLICT (org_id) DO UPDATE SET "
                "customer_id = excluded.customer_id, "
                "subscription_id = coalesce(excluded.subscription_id, accounts.subscription_id), "
                "subscription_status = excluded.subscription_status, updated_at = now()",
                (org_id, customer_id, subscription_id, status),
            )

    async def subscription(self, org_id: str, *, subscription_id: str, status: str) -> None:
        """What became of its subscription."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE accounts SET subscription_id = %s, subscription_status = %s, updated_at = now() "
                "WHERE org_id = %s",
                (subscription_id, status, org_id),
            )

    async def unlink(self, org_id: str) -> None:
        """Its customer is gone: nothing more is exported for it."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE accounts SET customer_id = NULL, customer_asked_at = NULL, subscription_id = NULL, "
                "subscription_status = 'customer_deleted', updated_at = now() WHERE org_id = %s",
                (org_id,),
            )

    async def failing(self, org_id: str, since: datetime | None) -> None:
        """It does not pay since then; None: it has paid."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE accounts SET failing_since = CASE WHEN %s::timestamptz IS NULL THEN NULL "
                "ELSE least(failing_since, %s) END, updated_at = now() WHERE org_id = %s",
                (since, since, org_id),
            )

    async def overdue(self, failing_before: datetime, limit: int) -> list[Account]:
        """Accounts that have not paid since before then and are not suspended."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                f"SELECT {_COLUMNS} FROM accounts WHERE failing_since < %s AND suspended_at IS NULL "
                "ORDER BY failing_since LIMIT %s",
                (failing_before, limit),
            )
            return [account_of(row) for row in await found.fetchall()]

    async def paid_while_suspended(self, limit: int) -> list[Account]:
        """Accounts that we suspended and that have paid."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                f"SELECT {_COLUMNS} FROM accounts WHERE failing_since IS NULL AND suspended_at IS NOT NULL LIMIT %s",
                (limit,),
            )
            return [account_of(row) for row in await found.fetchall()]

    async def suspended(self, org_id: str, at: datetime | None) -> None:
        """We suspended it; None: it is let in again."""
        async with transaction(self._pool) as connection:
            changed = await connection.execute(
                "UPDATE accounts SET suspended_at = %s, updated_at = now() WHERE org_id = %s "
                "AND (suspended_at IS NULL) = %s RETURNING now()",
                (at, org_id, at is not None),
            )
            row = await changed.fetchone()
            if row is not None:
                await add_account_event(
                    connection,
                    kind="org_suspended" if at is not None else "org_resumed",
                    org_id=org_id,
                    at=at or row[0],
                    text="Its requests are refused: an invoice is overdue." if at is not None else "It has paid.",
                )
