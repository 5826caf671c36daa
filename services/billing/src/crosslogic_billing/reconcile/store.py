"""All SQL of reconciliation."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import LiteralString

from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from crosslogic_billing.accounts.store import terms_of, time_zone_of
from crosslogic_billing.prices.policy import RESERVED_CATEGORY
from crosslogic_billing.rating import policy as rating
from crosslogic_billing.rating.domain import Priced
from crosslogic_billing.rating.policy import PICODOLLARS_A_CENT
from crosslogic_billing.reconcile.domain import CreditTotals, Line, MeterTotals, MonthTotals, Report, WindowTotals
from crosslogic_common.postgres import Connection, Pool, transaction

_REPORT: LiteralString = (
    "id, from_day, to_day, created_at, lines, missing, unexplained, signed_by, signed_note, signed_at"
)
_TIMEOUT_S = 60.0


def _report(row: TupleRow) -> Report:
    lines = tuple(
        Line(
            what=line["what"],
            unit=line["unit"],
            left=int(line["left"]),
            right=int(line["right"]),
            explanation=line["explanation"],
            org_id=line["org_id"],
            category=line["category"],
        )
        for line in row[4]
    )
    return Report(
        id=str(row[0]),
        from_day=row[1],
        to_day=row[2],
        created_at=row[3],
        lines=lines,
        missing=tuple(row[5]),
        unexplained=row[6],
        signed_by=row[7],
        signed_note=row[8],
        signed_at=row[9],
    )


def _stored(line: Line) -> dict[str, str]:
    return {
        "what": line.what,
        "unit": line.unit,
        # As text: JSON's numbers are floats to many who read them.
        "left": str(line.left),
        "right": str(line.right),
        "explanation": line.explanation,
        "org_id": line.org_id,
        "category": line.category,
    }


class PostgresReconciliations:
    """What is compared, and what was found."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def windows(self, since: datetime, until: datetime) -> WindowTotals:
        """What our windows say of a period."""
        async with transaction(self._pool, timeout_s=_TIMEOUT_S) as connection:
            found = await connection.execute(
                "SELECT coalesce(sum(tokens), 0), coalesce(sum(tokens::numeric * price), 0) FROM window_usage "
                "WHERE window_start >= %s AND window_start < %s",
                (since, until),
            )
            charged, cost = await found.fetchone() or (0, 0)
            found = await connection.execute(
                "SELECT coalesce(sum(tokens), 0) FROM uncharged_usage WHERE window_start >= %s AND window_start < %s",
                (since, until),
            )
            (uncharged,) = await found.fetchone() or (0,)
            found = await connection.execute("SELECT sequence FROM ledger_cursor WHERE name = 'usage'")
            (sequence,) = await found.fetchone() or (0,)
        return WindowTotals(int(charged), int(uncharged), int(cost), int(sequence))

    async def months(self, first: date, *, exporting: bool) -> list[MonthTotals]:
        """Every month from `first` on, by organisation, category and unit."""
        async with transaction(self._pool, timeout_s=_TIMEOUT_S) as connection:
            found = await connection.execute(
                "SELECT org_id, month FROM org_months WHERE month >= %s ORDER BY org_id, month", (first,)
            )
            keys = [(str(org_id), month) for org_id, month in await found.fetchall()]
            totals: list[MonthTotals] = []
            for org_id, month in keys:
                totals += await _month(connection, org_id, month, exporting=exporting)
        return totals

    async def meters(self, since: datetime, until: datetime, lately: datetime) -> list[MeterTotals]:
        """Every customer and meter of a period as the outbox has it; `at_stripe` is 0."""
        async with transaction(self._pool, timeout_s=_TIMEOUT_S) as connection:
            found = await connection.execute(
                "SELECT min(org_id::text), customer_id, event_name, "
                "coalesce(sum(value) FILTER (WHERE state = 'delivered' AND delivered_how <> 'by_hand'), 0), "
                "coalesce(sum(value) FILTER (WHERE state = 'delivered' AND delivered_at >= %s), 0), "
                "coalesce(sum(value) FILTER (WHERE state = 'pending'), 0), "
                "coalesce(sum(value) FILTER (WHERE state = 'dead'), 0) "
                "FROM meter_events WHERE window_start >= %s AND window_start < %s "
                "GROUP BY customer_id, event_name ORDER BY customer_id, event_name",
                (lately, since, until),
            )
            return [
                MeterTotals(
                    org_id=row[0],
                    customer_id=row[1],
                    event_name=row[2],
                    at_stripe=0,
                    delivered=int(row[3]),
                    lately=int(row[4]),
                    pending=int(row[5]),
                    dead=int(row[6]),
                )
                for row in await found.fetchall()
            ]

    async def credits(self) -> list[CreditTotals]:
        """Every customer that was ever given something back; `at_stripe` is 0."""
        async with transaction(self._pool, timeout_s=_TIMEOUT_S) as connection:
            found = await connection.execute(
                "SELECT min(org_id::text), customer_id, coalesce(sum(cents) FILTER (WHERE given_at IS NOT NULL), 0), "
                "coalesce(sum(cents) FILTER (WHERE given_at IS NULL), 0), "
                "coalesce(max(last_error) FILTER (WHERE given_at IS NULL), '') "
                "FROM credits GROUP BY customer_id ORDER BY customer_id"
            )
            return [
                CreditTotals(
                    org_id=row[0],
                    customer_id=row[1],
                    given=int(row[2]),
                    waiting=int(row[3]),
                    last_error=row[4],
                    at_stripe=0,
                )
                for row in await found.fetchall()
            ]

    async def catch_up(self, first: date) -> None:
        """Lets the closer look again at what every month since then owes."""
        async with transaction(self._pool) as connection:
            await connection.execute("UPDATE org_months SET behind = true WHERE month >= %s", (first,))

    async def add(self, report: Report) -> None:
        """Keeps a report."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "INSERT INTO reconciliations (id, from_day, to_day, created_at, lines, missing, unexplained) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s)",
                (
                    report.id,
                    report.from_day,
                    report.to_day,
                    report.created_at,
                    Jsonb([_stored(line) for line in report.lines]),
                    Jsonb(list(report.missing)),
                    report.unexplained,
                ),
            )

    async def made_for(self, day: date) -> bool:
        """Whether there is a report of that day."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT FROM reconciliations WHERE from_day = %s AND to_day = %s LIMIT 1",
                (day, day + timedelta(days=1)),
            )
            return await found.fetchone() is not None

    async def listed(self, before: str, limit: int) -> list[Report]:
        """Reports with lesser ids than `before` (empty: any), newest first."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                f"SELECT {_REPORT} FROM reconciliations WHERE %s = '' OR id::text < %s ORDER BY id DESC LIMIT %s",
                (before, before, limit),
            )
            return [_report(row) for row in await found.fetchall()]

    async def sign(self, id_: str, *, signed_by: str, note: str, now: datetime) -> Report | None:
        """Signs a report, unless it is signed. The report as it is then; None: there is none."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE reconciliations SET signed_by = %s, signed_note = %s, signed_at = %s "
                "WHERE id = %s AND signed_at IS NULL",
                (signed_by, note, now, id_),
            )
            found = await connection.execute(f"SELECT {_REPORT} FROM reconciliations WHERE id = %s", (id_,))
            row = await found.fetchone()
        return None if row is None else _report(row)


async def _month(connection: Connection, org_id: str, month: date, *, exporting: bool) -> list[MonthTotals]:
    terms = await terms_of(connection, org_id, month)
    begins, ends = rating.month_bounds(month, await time_zone_of(connection, org_id))
    usage, tokens = await _used(connection, org_id, month)
    statement = rating.statement(month, terms, usage)
    charged = {c.category: c.charge_picodollars for c in statement.categories}
    if statement.fee_picodollars:
        charged[RESERVED_CATEGORY] = statement.fee_picodollars
    windows = await _sums(
        connection,
        "SELECT category, sum(accounted) FROM window_usage WHERE org_id = %s AND window_start >= %s "
        "AND window_start < %s GROUP BY category",
        (org_id, begins, ends),
    )
    found = await connection.execute("SELECT coalesce(customer_id, '') FROM accounts WHERE org_id = %s", (org_id,))
    row = await found.fetchone()
    customer_id = "" if row is None else row[0]
    totals: list[MonthTotals] = []
    for unit, targets in (("tokens", tokens), ("picodollars", charged)):
        exported = await _sums(
            connection,
            "SELECT category, sum(value) FROM month_exports WHERE org_id = %s AND month = %s AND unit = %s "
            "GROUP BY category",
            (org_id, month, unit),
        )
        outbox = await _sums(
            connection,
            "SELECT category, sum(value) FROM meter_events WHERE org_id = %s AND month = %s AND unit = %s "
            "GROUP BY category",
            (org_id, month, unit),
        )
        credited, to_give = await _credited(connection, org_id, month) if unit == "picodollars" else ({}, {})
        for category in sorted({*targets, *exported, *outbox}):
            target, told = targets.get(category, 0), exported.get(category, 0)
            net = told - credited.get(category, 0)
            totals.append(
                MonthTotals(
                    org_id=org_id,
                    month=month,
                    category=category,
                    unit=unit,
                    in_windows=windows.get(category, 0),
                    in_month=target,
                    exported=told,
                    credited=credited.get(category, 0),
                    in_credits=to_give.get(category, 0),
                    in_outbox=outbox.get(category, 0),
                    why_not=_why_not(
                        ahead=net > target,
                        below_a_cent=unit == "picodollars" and 0 < net - target < PICODOLLARS_A_CENT,
                        counts_money=unit == "picodollars",
                        exporting=exporting,
                        customer=bool(customer_id),
                        prepaid=unit == "picodollars" and terms.collection == "prepaid",
                        capped=unit == "picodollars"
                        and terms.monthly_cap_picodollars is not None
                        and sum(exported.values()) - sum(credited.values()) >= terms.monthly_cap_picodollars,
                    ),
                )
            )
    return totals


async def _credited(connection: Connection, org_id: str, month: date) -> tuple[dict[str, int], dict[str, int]]:
    """What was given back by category, as the month remembers it, and as the outbox of credits has it."""
    remembered = await _sums(
        connection,
        "SELECT category, credited FROM month_exports WHERE org_id = %s AND month = %s AND credited > 0",
        (org_id, month),
    )
    to_give = await _sums(
        connection,
        "SELECT category, sum(cents) FROM credits WHERE org_id = %s AND month = %s GROUP BY category",
        (org_id, month),
    )
    return remembered, {category: cents * PICODOLLARS_A_CENT for category, cents in to_give.items()}


def _why_not(
    *,
    ahead: bool,
    below_a_cent: bool,
    counts_money: bool,
    exporting: bool,
    customer: bool,
    prepaid: bool,
    capped: bool,
) -> str:
    if ahead:
        return _why_ahead(below_a_cent=below_a_cent, counts_money=counts_money)
    if not exporting:
        return "no payment provider is configured: nothing is exported"
    if not customer:
        return "it is no customer of the payment provider"
    if prepaid:
        return "prepaid: charges are collected in the money ledger"
    return "the month's cap is reached" if capped else ""


def _why_ahead(*, below_a_cent: bool, counts_money: bool) -> str:
    if below_a_cent:
        why = "by less than a cent, and credits are whole cents"
    elif counts_money:
        why = "what is too much is credited a day after the month's end, unless usage has caught up with it"
    else:
        why = "a meter of tokens does not go back, and nothing is charged for it"
    return f"corrected after it was exported: {why}"


async def _used(connection: Connection, org_id: str, month: date) -> tuple[dict[Priced, int], dict[str, int]]:
    found = await connection.execute(
        "SELECT category, price, tokens, all_tokens FROM month_usage WHERE org_id = %s AND month = %s", (org_id, month)
    )
    usage: dict[Priced, int] = {}
    tokens: dict[str, int] = {}
    for category, price, billable, everything in await found.fetchall():
        usage[Priced(category, price)] = billable
        tokens[category] = tokens.get(category, 0) + everything
    return usage, tokens


async def _sums(connection: Connection, query: LiteralString, values: Sequence[object]) -> dict[str, int]:
    found = await connection.execute(query, values)
    return {str(category): int(total) for category, total in await found.fetchall()}
