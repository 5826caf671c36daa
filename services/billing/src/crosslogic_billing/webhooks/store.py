"""All SQL of webhooks and invoices."""

from datetime import datetime
from typing import LiteralString

from psycopg.rows import TupleRow

from crosslogic_billing.account_events.store import add_account_event
from crosslogic_billing.export.stripe_sink import Invoice
from crosslogic_billing.posting import policy as posting
from crosslogic_billing.posting.store import add_transfer
from crosslogic_common.postgres import Pool, transaction

_INVOICE: LiteralString = (
    "invoice_id, customer_id, number, status, currency, total_cents, paid_cents, created_at, "
    "period_start, period_end, url"
)


def _invoice(row: TupleRow) -> Invoice:
    return Invoice(*row)


class PostgresWebhooks:
    """Events and invoices in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def received(self, event_id: str, type_: str, payload: bytes, now: datetime) -> bool:
        """Keeps an event. False: it was handled before."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "INSERT INTO webhooks AS w (event_id, type, payload, received_at) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (event_id) DO UPDATE SET event_id = w.event_id RETURNING handled_at",
                (event_id, type_, payload, now),
            )
            row = await found.fetchone()
        return row is None or row[0] is None

    async def handled(self, event_id: str, result: str, now: datetime) -> None:
        """Its consequences are stored."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE webhooks SET handled_at = %s, result = %s, attempts = attempts + 1, last_error = '' "
                "WHERE event_id = %s",
                (now, result, event_id),
            )

    async def failed(self, event_id: str, reason: str) -> None:
        """They are not."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE webhooks SET attempts = attempts + 1, last_error = %s WHERE event_id = %s", (reason, event_id)
            )

    async def open(self, received_before: datetime, limit: int) -> list[bytes]:
        """Payloads that wait to be handled, the oldest first."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT payload FROM webhooks WHERE handled_at IS NULL AND received_at < %s "
                "ORDER BY received_at LIMIT %s",
                (received_before, limit),
            )
            return [bytes(row[0]) for row in await found.fetchall()]

    async def forget(self, before: datetime) -> int:
        """Removes what was handled long ago: Stripe repeats an event for three days. How many."""
        async with transaction(self._pool) as connection:
            gone = await connection.execute(
                "DELETE FROM webhooks WHERE received_at < %s AND handled_at IS NOT NULL", (before,)
            )
            return gone.rowcount

    async def invoice(self, org_id: str, invoice: Invoice, *, failed_at: datetime | None, now: datetime) -> None:
        """Keeps an invoice as it is now, and since when its organisation does not pay.

        `failed_at`: a payment failed then; None: nothing new. Once an invoice is not open any more, none of it is due.
        """
        async with transaction(self._pool) as connection:
            # Two events of one organisation at once would each overlook the other's invoice.
            await connection.execute("SELECT FROM accounts WHERE org_id = %s FOR UPDATE", (org_id,))
            found = await connection.execute("SELECT paid_cents FROM invoices WHERE invoice_id = %s", (invoice.id,))
            known = await found.fetchone()
            paid = posting.payment(
                org_id=org_id,
                invoice_id=invoice.id,
                paid_before_cents=0 if known is None else int(known[0]),
                paid_cents=invoice.paid_cents,
            )
            if paid is not None and invoice.currency == "usd":
                await add_transfer(connection, paid, now)
            await connection.execute(
                f"INSERT INTO invoices AS i ({_INVOICE}, org_id, failed_at, fetched_at) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, CASE WHEN %s IN ('open', 'uncollectible') "
                "THEN %s::timestamptz END, %s) ON CONFLICT (invoice_id) DO UPDATE SET number = excluded.number, "
                "status = excluded.status, total_cents = excluded.total_cents, paid_cents = excluded.paid_cents, "
                "url = excluded.url, period_start = excluded.period_start, period_end = excluded.period_end, "
                "failed_at = CASE WHEN excluded.status IN ('open', 'uncollectible') "
                "THEN least(i.failed_at, excluded.failed_at) END, fetched_at = excluded.fetched_at",
                (
                    invoice.id,
                    invoice.customer_id,
                    invoice.number,
                    invoice.status,
                    invoice.currency,
                    invoice.total_cents,
                    invoice.paid_cents,
                    invoice.created_at,
                    invoice.period_start,
                    invoice.period_end,
                    invoice.url,
                    org_id,
                    invoice.status,
                    failed_at,
                    now,
                ),
            )
            if failed_at is not None and invoice.status in ("open", "uncollectible"):
                await add_account_event(
                    connection,
                    kind="payment_failed",
                    org_id=org_id,
                    at=now,
                    subject=invoice.id,
                    text=f"The payment of invoice {invoice.number or invoice.id} failed.",
                )
            await connection.execute(
                "UPDATE accounts SET failing_since = (SELECT min(failed_at) FROM invoices WHERE org_id = %s), "
                "updated_at = now() WHERE org_id = %s",
                (org_id, org_id),
            )

    async def invoices(self, org_id: str, limit: int) -> list[Invoice]:
        """An organisation's invoices, newest first."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                f"SELECT {_INVOICE} FROM invoices WHERE org_id = %s ORDER BY created_at DESC, invoice_id LIMIT %s",
                (org_id, limit),
            )
            return [_invoice(row) for row in await found.fetchall()]
