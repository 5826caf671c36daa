"""Makes the months' partitions before they are needed."""

import asyncio

import psycopg

from crosslogic_accountant import policy
from crosslogic_accountant.metrics import LedgerMetrics
from crosslogic_accountant.writer_connection import WriterConnection
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.ids import floor
from crosslogic_common.logs import get_logger

_LOCK = 0x63_6C_6C_70  # "cllp": one replica makes partitions at a time
_INTERVAL_S = 3600.0
_RETRY_S = 5.0


class PartitionKeeper:
    """Keeps the partitions from the oldest request that is kept to two months ahead."""

    def __init__(
        self,
        *,
        connection: WriterConnection,
        clock: Clock,
        metrics: LedgerMetrics,
        months_ahead: int = 2,
        keep_months: int = 0,
    ) -> None:
        """Months that ended more than `keep_months` months ago are dropped once all have settled them; 0: none is."""
        self._connection = connection
        self._clock = clock
        self._metrics = metrics
        self._months_ahead = months_ahead
        self._keep_months = keep_months
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Looks at start and every hour, for ever. Until it succeeds, records go to the default partition."""
        while True:
            try:
                await self.prepare()
                await self.drop_old()
                wait_s = _INTERVAL_S
            except (CodedError, psycopg.Error) as error:
                self._log.warning("partitions wait", reason=str(error))
                wait_s = _RETRY_S
            except Exception as error:  # noqa: BLE001  # one bad turn must not end all turns
                self._log.error("making partitions failed", exc_info=error)
                wait_s = _RETRY_S
            await asyncio.sleep(wait_s)

    async def prepare(self) -> None:
        """Makes what is missing. Raises UNAVAILABLE while the database is away or the tables are busy."""
        for month in policy.months_to_prepare(self._clock.now(), self._months_ahead):
            async with self._connection.use() as connection, connection.transaction():
                await connection.execute("SET LOCAL lock_timeout = '2s'")
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                cursor = await connection.execute(
                    "SELECT add_usage_partition(%s, %s, %s)",
                    (month.name, floor(month.low_ms), floor(month.high_ms)),
                )
                row = await cursor.fetchone()
            if row is not None and row[0] is not True:
                self._metrics.stray_months.inc()
                self._log.warning("a month's records lie in the default partition", partition=month.name)

    async def drop_old(self) -> list[str]:
        """Drops the months whose time is over; their names. Raises UNAVAILABLE as `prepare` does."""
        async with self._connection.use() as connection:
            cursor = await connection.execute(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
                "WHERE i.inhparent = 'usage_records'::regclass"
            )
            names = [str(row[0]) for row in await cursor.fetchall()]
        dropped: list[str] = []
        for name, ends in policy.months_to_drop(names, self._clock.now(), self._keep_months):
            async with self._connection.use() as connection, connection.transaction():
                await connection.execute("SET LOCAL lock_timeout = '2s'")
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                cursor = await connection.execute("SELECT drop_usage_partition(%s, %s)", (name, ends))
                row = await cursor.fetchone()
            if row is not None and row[0]:
                self._log.warning("a month is kept beyond its time", partition=name, reason=row[0])
                continue
            dropped.append(name)
            self._metrics.dropped_months.inc()
            self._log.info("a month of records was dropped", partition=name)
        return dropped

    async def close(self) -> None:
        """Gives the connection back."""
        await self._connection.close()
