"""Closing windows: what a window added to its month is rated, and what is owed by it goes into the outbox.

One transaction a window does all of it, under the lock of its organisation's month: the month's usage, what has been
exported of it and the new meter events change together or not at all.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from crosslogic_billing.accounts.store import terms_of, time_zone_of
from crosslogic_billing.export import policy
from crosslogic_billing.export.credit_store import add_credits
from crosslogic_billing.export.domain import Unit, Window
from crosslogic_billing.prices.policy import RESERVED_CATEGORY
from crosslogic_billing.rating import policy as rating
from crosslogic_billing.rating.domain import Priced, Terms
from crosslogic_billing.standings.store import hold_standings
from crosslogic_billing.work import work_for_ever
from crosslogic_common.clock import Clock
from crosslogic_common.postgres import Connection, Pool, transaction

IDLE_S = 1.0
_WINDOWS_AT_ONCE = 500
_AT_ONCE = 4
_OPEN_EVERY = timedelta(minutes=5)
CREDIT_AFTER = timedelta(days=1)
"""So long after its end a month that was corrected is credited: late usage has come by then."""
_KEPT = timedelta(days=100)
"""Windows are kept for reconciliation until long after Stripe would take anything for them."""


@dataclass(frozen=True, slots=True)
class _Month:
    """The month that a window is closed into."""

    org_id: str
    month: date
    terms: Terms


class Closer:
    """Closes windows whose time is over."""

    def __init__(self, *, pool: Pool, clock: Clock, delay_s: float, exporting: bool) -> None:
        """`delay_s`: how long after its end a window waits for late records; what comes later is told by itself.

        Not `exporting`: months are rated, and nothing is put into the outbox.
        """
        self._pool = pool
        self._clock = clock
        self._delay = timedelta(seconds=delay_s)
        self._exporting = exporting
        self._opened_at = datetime.min.replace(tzinfo=UTC)

    async def run(self) -> None:
        """Closes for ever."""

        async def step() -> bool:
            return await self.close_due() >= _WINDOWS_AT_ONCE

        await work_for_ever(step, name=__name__, trouble="windows not closed, trying again", idle_s=IDLE_S)

    async def close_due(self) -> int:
        """Closes every window that is due, the oldest first, at most 500. How many there were."""
        now = self._clock.now()
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT DISTINCT org_id, window_start, length_s FROM window_usage WHERE tokens <> accounted "
                "AND window_start + make_interval(secs => length_s) <= %s ORDER BY window_start, org_id LIMIT %s",
                (now - self._delay, _WINDOWS_AT_ONCE),
            )
            windows = [Window(str(org), start, length) for org, start, length in await found.fetchall()]
        by_org: dict[str, list[Window]] = {}
        for window in windows:
            by_org.setdefault(window.org_id, []).append(window)
        await self._close_all(list(by_org.values()))
        if len(windows) < _WINDOWS_AT_ONCE:
            await self._open_reserved_months(now)
            if self._exporting:
                await self._catch_up()
                await self._credit_months_that_are_over(now)
        return len(windows)

    async def _open_reserved_months(self, now: datetime) -> None:
        """Reserved capacity is owed from a month's first moment, used or not."""
        if now - self._opened_at < _OPEN_EVERY:
            return
        async with transaction(self._pool) as connection:
            found = await connection.execute("SELECT DISTINCT org_id FROM org_standings WHERE reserved_units <> '{}'")
            for (org_id,) in await found.fetchall():
                zone = await time_zone_of(connection, str(org_id))
                month = rating.month_of(now, zone)
                if rating.monthly_fee(await terms_of(connection, str(org_id), month)):
                    begins, _ = rating.month_bounds(month, zone)
                    await connection.execute(
                        "INSERT INTO org_months (org_id, month, last_window, behind) VALUES (%s, %s, %s, true) "
                        "ON CONFLICT (org_id, month) DO NOTHING",
                        (org_id, month, begins),
                    )
        self._opened_at = now

    async def forget_old(self) -> int:
        """Removes windows that nobody asks for any more. How many rows."""
        async with transaction(self._pool, timeout_s=60.0) as connection:
            before = self._clock.now() - _KEPT
            await connection.execute("DELETE FROM uncharged_usage WHERE window_start < %s", (before,))
            gone = await connection.execute(
                "DELETE FROM window_usage WHERE window_start < %s AND tokens = accounted", (before,)
            )
            return gone.rowcount

    async def _close_all(self, waiting: list[list[Window]]) -> None:
        """A few organisations at a time, the windows of each in their order."""

        async def work() -> None:
            while waiting:
                for window in waiting.pop(0):
                    async with transaction(self._pool) as connection:
                        await self._close(connection, window)

        try:
            async with asyncio.TaskGroup() as closing:
                for _ in range(min(_AT_ONCE, len(waiting))):
                    closing.create_task(work())
        except ExceptionGroup as group:
            # All of them fail for one reason: the database.
            raise group.exceptions[0] from None

    async def _close(self, connection: Connection, window: Window) -> None:
        # Nothing that identity says is learnt meanwhile: what is closed here is looked at again by whoever learns it.
        await hold_standings(connection)
        zone = await time_zone_of(connection, window.org_id)
        month = rating.month_of(window.start, zone)
        await _lock_month(connection, window.org_id, month, window.start)
        # The month is locked: its terms cannot be read before and its windows be closed after a change of them.
        at = _Month(window.org_id, month, await terms_of(connection, window.org_id, month))
        rows = await _window_rows(connection, window)
        if not rows:
            return
        before = {key: accounted for key, (_, accounted) in rows.items()}
        after = {key: tokens for key, (tokens, _) in rows.items()}
        await _add_to_month(
            connection,
            at,
            billable=_difference(
                rating.billable(at.terms, window.start, window.length_s, before),
                rating.billable(at.terms, window.start, window.length_s, after),
            ),
            everything=_difference(_by_price(before), _by_price(after)),
        )
        await connection.execute(
            "UPDATE window_usage SET accounted = tokens WHERE org_id = %s AND window_start = %s AND length_s = %s",
            (window.org_id, window.start, window.length_s),
        )
        await self._export(connection, at, window.start)

    async def _catch_up(self) -> None:
        """Months that owe something and whose organisation has a customer by now."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT m.org_id, m.month, m.last_window FROM org_months m JOIN accounts a USING (org_id) "
                "WHERE m.behind AND a.customer_id IS NOT NULL AND m.last_window IS NOT NULL ORDER BY m.month LIMIT %s",
                (_WINDOWS_AT_ONCE,),
            )
            months = [(str(org), month, last) for org, month, last in await found.fetchall()]
        for org_id, month, last in months:
            async with transaction(self._pool) as connection:
                await _lock_month(connection, org_id, month, last)
                await self._export(connection, _Month(org_id, month, await terms_of(connection, org_id, month)), last)

    async def _credit_months_that_are_over(self, now: datetime) -> None:
        """Gives back what was exported of them and is not owed. Before, usage may still catch up with it."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT m.org_id, m.month, a.customer_id FROM org_months m JOIN accounts a USING (org_id) "
                "WHERE m.credit_due AND m.month < %s AND a.customer_id IS NOT NULL ORDER BY m.month LIMIT %s",
                ((now - CREDIT_AFTER).date().replace(day=1) + timedelta(days=1), _WINDOWS_AT_ONCE),
            )
            months = [(str(org), month, str(customer)) for org, month, customer in await found.fetchall()]
        for org_id, month, customer_id in months:
            async with transaction(self._pool) as connection:
                _, ends = rating.month_bounds(month, await time_zone_of(connection, org_id))
                if now < ends + CREDIT_AFTER:
                    continue
                await connection.execute(
                    "SELECT FROM org_months WHERE org_id = %s AND month = %s FOR UPDATE", (org_id, month)
                )
                at = _Month(org_id, month, await terms_of(connection, org_id, month))
                await self._credit(connection, at, customer_id, now)

    async def _credit(self, connection: Connection, at: _Month, customer_id: str, now: datetime) -> None:
        usage, _ = await _month_usage(connection, at)
        charged = rating.statement(at.month, at.terms, usage)
        target = {category.category: category.charge_picodollars for category in charged.categories}
        exported = (await _exported(connection, at))["picodollars"]
        fee = {RESERVED_CATEGORY: exported.pop(RESERVED_CATEGORY)} if RESERVED_CATEGORY in exported else {}
        amounts = rating.creditable(target, exported, at.terms.monthly_cap_picodollars)
        amounts |= rating.creditable({RESERVED_CATEGORY: charged.fee_picodollars}, fee, None)
        await add_credits(
            connection, org_id=at.org_id, month=at.month, customer_id=customer_id, amounts=amounts, now=now
        )
        await connection.execute(
            "UPDATE org_months SET credit_due = false WHERE org_id = %s AND month = %s", (at.org_id, at.month)
        )

    async def _export(self, connection: Connection, at: _Month, window_start: datetime) -> None:
        """Puts what is owed and not yet exported into the outbox."""
        if not self._exporting:
            return
        usage, tokens = await _month_usage(connection, at)
        charged = rating.statement(at.month, at.terms, usage)
        exported = await _exported(connection, at)
        fee_told = exported["picodollars"].pop(RESERVED_CATEGORY, 0)
        targets: dict[Unit, dict[str, int]] = {
            "tokens": tokens,
            "picodollars": {
                category.category: category.charge_picodollars
                for category in charged.categories
                if at.terms.collection == "invoice"
            },
        }
        caps: dict[Unit, int | None] = {"tokens": None, "picodollars": at.terms.monthly_cap_picodollars}
        owed = {unit: rating.exportable(targets[unit], exported[unit], caps[unit]) for unit in targets}
        # The cap is of usage: the fee is owed beside it.
        if at.terms.collection == "invoice" and charged.fee_picodollars > fee_told:
            owed["picodollars"][RESERVED_CATEGORY] = charged.fee_picodollars - fee_told
        customer_id = await _customer(connection, at.org_id) if any(owed.values()) else ""
        await connection.execute(
            "UPDATE org_months SET behind = %s WHERE org_id = %s AND month = %s AND behind <> %s",
            (behind := any(owed.values()) and not customer_id, at.org_id, at.month, behind),
        )
        if customer_id:
            for unit, values in owed.items():
                for category, value in values.items():
                    await self._enqueue(connection, at, customer_id, unit, category, window_start, value)

    async def _enqueue(
        self,
        connection: Connection,
        at: _Month,
        customer_id: str,
        unit: Unit,
        category: str,
        window_start: datetime,
        value: int,
    ) -> None:
        found = await connection.execute(
            "SELECT coalesce(max(revision), -1) + 1 FROM meter_events "
            "WHERE org_id = %s AND category = %s AND unit = %s AND window_start = %s",
            (at.org_id, category, unit, window_start),
        )
        row = await found.fetchone()
        revision = 0 if row is None else int(row[0])
        now = self._clock.now()
        name = policy.event_name(category, unit)
        for part, piece in enumerate(policy.parts(value)):
            key = policy.identifier(
                org_id=at.org_id,
                category=category,
                unit=unit,
                window_start=window_start,
                revision=revision,
                part=part,
            )
            await connection.execute(
                "INSERT INTO meter_events (identifier, org_id, customer_id, event_name, category, unit, month, "
                "window_start, revision, part, value, created_at) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    key,
                    at.org_id,
                    customer_id,
                    name,
                    category,
                    unit,
                    at.month,
                    window_start,
                    revision,
                    part,
                    piece,
                    now,
                ),
            )
        await connection.execute(
            "INSERT INTO meter_lanes (customer_id, event_name, due_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (customer_id, name, now),
        )
        await connection.execute(
            "INSERT INTO month_exports AS m (org_id, month, category, unit, value) VALUES (%s, %s, %s, %s, %s) "
            "ON CONFLICT (org_id, month, category, unit) DO UPDATE SET value = m.value + excluded.value",
            (at.org_id, at.month, category, unit, value),
        )


_WindowKey = tuple[str, Priced]
"""A model and a bucket."""


def _by_price(window: Mapping[_WindowKey, int]) -> dict[Priced, int]:
    return rating.merged({bucket: tokens} for (_, bucket), tokens in window.items())


def _difference(before: Mapping[Priced, int], after: Mapping[Priced, int]) -> dict[Priced, int]:
    return rating.merged((after, {bucket: -tokens for bucket, tokens in before.items()}))


async def _lock_month(connection: Connection, org_id: str, month: date, window_start: datetime) -> None:
    await connection.execute(
        "INSERT INTO org_months AS m (org_id, month, last_window) VALUES (%s, %s, %s) "
        "ON CONFLICT (org_id, month) DO UPDATE SET last_window = greatest(m.last_window, excluded.last_window), "
        "adjust_due = true, credit_due = true",
        (org_id, month, window_start),
    )


async def _window_rows(connection: Connection, window: Window) -> dict[_WindowKey, tuple[int, int]]:
    found = await connection.execute(
        "SELECT model, category, price, tokens, accounted FROM window_usage "
        "WHERE org_id = %s AND window_start = %s AND length_s = %s FOR UPDATE",
        (window.org_id, window.start, window.length_s),
    )
    return {
        (model, Priced(category, price)): (tokens, accounted)
        for model, category, price, tokens, accounted in await found.fetchall()
    }


async def _add_to_month(
    connection: Connection, at: _Month, *, billable: Mapping[Priced, int], everything: Mapping[Priced, int]
) -> None:
    for bucket in sorted({*billable, *everything}):
        await connection.execute(
            "INSERT INTO month_usage AS m (org_id, month, category, price, tokens, all_tokens) "
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (org_id, month, category, price) DO UPDATE SET "
            "tokens = m.tokens + excluded.tokens, all_tokens = m.all_tokens + excluded.all_tokens",
            (
                at.org_id,
                at.month,
                bucket.category,
                bucket.price_picodollars,
                billable.get(bucket, 0),
                everything.get(bucket, 0),
            ),
        )


async def _month_usage(connection: Connection, at: _Month) -> tuple[dict[Priced, int], dict[str, int]]:
    """What is charged for, by price; and all tokens by category."""
    found = await connection.execute(
        "SELECT category, price, tokens, all_tokens FROM month_usage WHERE org_id = %s AND month = %s",
        (at.org_id, at.month),
    )
    usage: dict[Priced, int] = {}
    tokens: dict[str, int] = {}
    for category, price, billable, everything in await found.fetchall():
        usage[Priced(category, price)] = billable
        tokens[category] = tokens.get(category, 0) + everything
    return usage, tokens


async def _exported(connection: Connection, at: _Month) -> dict[Unit, dict[str, int]]:
    found = await connection.execute(
        "SELECT unit, category, value - credited FROM month_exports WHERE org_id = %s AND month = %s",
        (at.org_id, at.month),
    )
    exported: dict[Unit, dict[str, int]] = {"tokens": {}, "picodollars": {}}
    for unit, category, value in await found.fetchall():
        exported[unit][category] = int(value)
    return exported


async def _customer(connection: Connection, org_id: str) -> str:
    found = await connection.execute("SELECT coalesce(customer_id, '') FROM accounts WHERE org_id = %s", (org_id,))
    row = await found.fetchone()
    return "" if row is None else str(row[0])
