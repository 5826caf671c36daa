"""All SQL of views."""

from datetime import date, datetime

from crosslogic_billing.accounts.store import terms_of, time_zone_of
from crosslogic_billing.export.domain import MeterEvent
from crosslogic_billing.export.outbox_store import EVENT_COLUMNS, event_of
from crosslogic_billing.prices.domain import PriceVersion
from crosslogic_billing.prices.store import version_by_id
from crosslogic_billing.rating.domain import Priced, Terms
from crosslogic_billing.views.domain import Machine
from crosslogic_common.postgres import Pool, transaction


class PostgresViews:
    """Reads for people."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def terms(self, org_id: str, month: date) -> tuple[Terms, str]:
        """The terms of a month, and where the organisation's months begin."""
        async with transaction(self._pool) as connection:
            return await terms_of(connection, org_id, month), await time_zone_of(connection, org_id)

    async def month_usage(self, org_id: str, month: date) -> tuple[dict[Priced, int], int]:
        """What a month is charged for, by price; and all its tokens."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT category, price, tokens, all_tokens FROM month_usage WHERE org_id = %s AND month = %s",
                (org_id, month),
            )
            rows = await found.fetchall()
        return {Priced(row[0], row[1]): row[2] for row in rows}, sum(row[3] for row in rows)

    async def exported(self, org_id: str, month: date) -> dict[str, int]:
        """Pico-dollars that were put into the outbox, less what was given back, by category."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT category, value - credited FROM month_exports "
                "WHERE org_id = %s AND month = %s AND unit = 'picodollars'",
                (org_id, month),
            )
            return {row[0]: int(row[1]) for row in await found.fetchall()}

    async def used(self, org_id: str, since: datetime, until: datetime) -> dict[Priced, int]:
        """Tokens by price in windows that begin within a time."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT category, price, sum(accounted) FROM window_usage "
                "WHERE org_id = %s AND window_start >= %s AND window_start < %s GROUP BY category, price",
                (org_id, since, until),
            )
            return {Priced(row[0], row[1]): int(row[2]) for row in await found.fetchall()}

    async def by_model(self, org_id: str, since: datetime, until: datetime) -> dict[str, int]:
        """Tokens by model in windows that begin within a time."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT model, sum(tokens) FROM window_usage "
                "WHERE org_id = %s AND window_start >= %s AND window_start < %s GROUP BY model",
                (org_id, since, until),
            )
            return {row[0]: int(row[1]) for row in await found.fetchall()}

    async def version(self, id_: str) -> PriceVersion | None:
        """A price version."""
        async with transaction(self._pool) as connection:
            return await version_by_id(connection, id_)

    async def window_events(self, org_id: str, category: str, window_start: datetime) -> list[MeterEvent]:
        """A window's meter events of a category."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                f"SELECT {EVENT_COLUMNS} FROM meter_events WHERE org_id = %s AND category = %s AND window_start = %s "
                "ORDER BY id",
                (org_id, category, window_start),
            )
            return [event_of(row) for row in await found.fetchall()]

    async def machines(self, since: datetime, until: datetime, limit: int) -> list[Machine]:
        """Machines that ran within a time."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT node_id, region, gpu_type, gpu_count, spot, hourly_picodollars, models, from_time, to_time "
                "FROM machine_costs WHERE from_time < %s AND (to_time IS NULL OR to_time > %s) "
                "ORDER BY node_id, from_time LIMIT %s",
                (until, since, limit),
            )
            return [
                Machine(
                    node_id=row[0],
                    region=row[1],
                    gpu_type=row[2],
                    gpu_count=row[3],
                    spot=row[4],
                    hourly_picodollars=row[5],
                    models=tuple(row[6]),
                    begins=row[7],
                    ends=row[8],
                )
                for row in await found.fetchall()
            ]
