"""All SQL that keeps the rollups."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from psycopg import sql

from crosslogic_accountant.ledger_rows import time_us
from crosslogic_accountant.usage_queries import ID_SLACK_MS
from crosslogic_accountant.writer_connection import WriterConnection
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import floor
from crosslogic_common.postgres import Connection

ROLLUPS = "rollups"
MAX_COMMITS = 2_000
KEYS = "org_id, time, environment_id, api_key_id, model, region"
_SUMS = "requests, prompt_tokens, cached_prompt_tokens, completion_tokens, cost_picodollars"
_SUMMED = (
    "sum(requests)::bigint AS requests, sum(prompt_tokens)::bigint AS prompt_tokens, "
    "sum(cached_prompt_tokens)::bigint AS cached_prompt_tokens, "
    "sum(completion_tokens)::bigint AS completion_tokens, sum(cost_picodollars) AS cost_picodollars"
)
_HOUR_KEYS = "org_id, date_trunc('hour', start_time, 'UTC') AS time, environment_id, api_key_id, model, region"
_DAY_KEYS = "org_id, date_trunc('day', time, 'UTC') AS time, environment_id, api_key_id, model, region"
_ADD = (
    f"ON CONFLICT ({KEYS}) DO UPDATE SET requests = r.requests + excluded.requests, "
    "prompt_tokens = r.prompt_tokens + excluded.prompt_tokens, "
    "cached_prompt_tokens = r.cached_prompt_tokens + excluded.cached_prompt_tokens, "
    "completion_tokens = r.completion_tokens + excluded.completion_tokens, "
    "cost_picodollars = r.cost_picodollars + excluded.cost_picodollars"
)
_NEXT_COMMITS = """
    SELECT batch, last_sequence, row_count FROM usage_commits
    WHERE last_sequence > %s ORDER BY last_sequence LIMIT %s
"""
# In the key's order, so that a rebuild and a roll never wait for one another in a circle.
_ROLL = f"""
    WITH fresh AS MATERIALIZED (
        SELECT {_HOUR_KEYS}, {_SUMMED} FROM usage_records WHERE batch = ANY(%s) GROUP BY 1, 2, 3, 4, 5, 6
    ), hourly AS (
        INSERT INTO usage_hourly AS r ({KEYS}, {_SUMS}) SELECT {KEYS}, {_SUMS} FROM fresh ORDER BY {KEYS} {_ADD}
    ), daily AS (
        INSERT INTO usage_daily AS r ({KEYS}, {_SUMS})
        SELECT {_DAY_KEYS}, {_SUMMED} FROM fresh GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6 {_ADD}
    )
    SELECT org_id, environment_id, api_key_id, date_trunc('day', time, 'UTC'), sum(cost_picodollars)
    FROM fresh GROUP BY 1, 2, 3, 4
"""
# What the records up to the cursor say of the hours from (1) up to (2).
_TRUTH = f"""
    SELECT {_HOUR_KEYS}, {_SUMMED} FROM usage_records u
    WHERE start_time >= %(low)s AND start_time < %(high)s AND request_id >= %(low_id)s AND request_id < %(high_id)s
      AND NOT EXISTS (SELECT FROM usage_commits c WHERE c.batch = u.batch AND c.last_sequence > %(cursor)s)
    GROUP BY 1, 2, 3, 4, 5, 6
"""
_HOURLY_DIFFERENCES = f"""
    WITH truth AS MATERIALIZED ({_TRUTH})
    SELECT count(*) FROM truth t FULL JOIN (
        SELECT * FROM usage_hourly WHERE time >= %(low)s AND time < %(high)s
    ) r USING ({KEYS})
    WHERE (t.requests, t.prompt_tokens, t.cached_prompt_tokens, t.completion_tokens, t.cost_picodollars)
        IS DISTINCT FROM (r.requests, r.prompt_tokens, r.cached_prompt_tokens, r.completion_tokens, r.cost_picodollars)
      AND (coalesce(t.requests, 0), coalesce(t.prompt_tokens, 0), coalesce(t.completion_tokens, 0),
           coalesce(t.cost_picodollars, 0)) IS DISTINCT FROM
          (coalesce(r.requests, 0), coalesce(r.prompt_tokens, 0), coalesce(r.completion_tokens, 0),
           coalesce(r.cost_picodollars, 0))
"""


@dataclass(frozen=True, slots=True)
class SpendDelta:
    """What a key's spending of one day changed by."""

    org_id: UUID
    environment_id: UUID
    api_key_id: UUID
    day: datetime
    cost_picodollars: int


@dataclass(frozen=True, slots=True)
class Rolled:
    """Rows of the ledger that are rolled up: those after a sequence and up to another."""

    after: int
    reached: int
    batches: Sequence[int]
    deltas: Sequence[SpendDelta]


OnRolled = Callable[[Connection, Rolled], Awaitable[None]]


class RollupStore:
    """Adds to the rollups and makes them anew."""

    def __init__(
        self, *, connection: WriterConnection, on_rolled: OnRolled | None = None, rows_a_step: int = 50_000
    ) -> None:
        """`on_rolled` is told what was added, in the transaction that adds it."""
        self._connection = connection
        self._one_at_a_time = asyncio.Lock()
        self._on_rolled = on_rolled
        self.rows_a_step = rows_a_step

    async def roll(self) -> int:
        """Adds the next rows of the ledger; returns how many. 0: there are none, or another replica is at it."""
        async with self._transaction() as connection:
            cursor = await lock_reader(connection, ROLLUPS, wait=False)
            if cursor is None:
                return 0
            batches, reached = await next_batches(connection, cursor, self.rows_a_step)
            if not batches:
                return 0
            # Fresh months have no statistics yet, and a plan that reads all of one would be no help.
            await connection.execute("SET LOCAL enable_seqscan = off")
            rows = await (await connection.execute(_ROLL.encode(), (batches,))).fetchall()
            if self._on_rolled is not None:
                deltas = [SpendDelta(row[0], row[1], row[2], row[3], int(row[4])) for row in rows]
                await self._on_rolled(connection, Rolled(cursor, reached, batches, deltas))
            await move_reader(connection, ROLLUPS, reached)
        return reached - cursor

    async def rebuild(self, low: datetime, high: datetime) -> int:
        """Makes the sums of the hours from `low` up to `high` anew; returns how many were not what the records say.

        Both are full hours. Raises CONFLICT when records of that time are no longer kept, UNAVAILABLE.
        """
        async with self._transaction() as connection:
            cursor = await lock_reader(connection, ROLLUPS, wait=True)
            await _check_kept(connection, low)
            values = truth_values(low, high, cursor or 0)
            found = await (await connection.execute(_HOURLY_DIFFERENCES.encode(), values)).fetchone()
            await connection.execute("DELETE FROM usage_hourly WHERE time >= %(low)s AND time < %(high)s", values)
            await connection.execute(f"INSERT INTO usage_hourly ({KEYS}, {_SUMS}) {_TRUTH}".encode(), values)
            first_day, end_day = _day(low), _day(high - timedelta(microseconds=1)) + timedelta(days=1)
            days = {"low": first_day, "high": end_day}
            await connection.execute("DELETE FROM usage_daily WHERE time >= %(low)s AND time < %(high)s", days)
            await connection.execute(
                (
                    f"INSERT INTO usage_daily ({KEYS}, {_SUMS}) SELECT {_DAY_KEYS}, {_SUMMED} FROM usage_hourly "
                    "WHERE time >= %(low)s AND time < %(high)s GROUP BY 1, 2, 3, 4, 5, 6"
                ).encode(),
                days,
            )
        return 0 if found is None else int(found[0])

    async def differences(self, low: datetime, high: datetime) -> int:
        """How many hourly sums from `low` up to `high` are not what the records say."""
        async with self._transaction() as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor = await reader_sequence(connection, ROLLUPS)
            values = truth_values(low, high, cursor)
            found = await (await connection.execute(_HOURLY_DIFFERENCES.encode(), values)).fetchone()
        return 0 if found is None else int(found[0])

    async def close(self) -> None:
        """Gives the connection back."""
        await self._connection.close()

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with self._one_at_a_time, self._connection.use() as connection, connection.transaction():
            yield connection


async def lock_reader(connection: Connection, name: str, *, wait: bool) -> int | None:
    """The reader's sequence, which stays as it is until the transaction ends. None: somebody else has it."""
    query = sql.SQL("SELECT sequence FROM readers WHERE name = %s FOR UPDATE {}")
    cursor = await connection.execute(query.format(sql.SQL("" if wait else "SKIP LOCKED")), (name,))
    row = await cursor.fetchone()
    return None if row is None else int(row[0])


async def reader_sequence(connection: Connection, name: str) -> int:
    """How far a reader has come. 0: it has not begun."""
    cursor = await connection.execute("SELECT sequence FROM readers WHERE name = %s", (name,))
    row = await cursor.fetchone()
    return 0 if row is None else int(row[0])


async def next_batches(connection: Connection, after: int, rows: int) -> tuple[list[int], int]:
    """Whole batches after a sequence, about `rows` rows of them, and the sequence at their end."""
    batches: list[int] = []
    reached = after
    cursor = await connection.execute(_NEXT_COMMITS, (after, MAX_COMMITS))
    for batch, last, _ in await cursor.fetchall():
        batches.append(int(batch))
        reached = int(last)
        if reached - after >= rows:
            break
    return batches, reached


async def move_reader(connection: Connection, name: str, sequence: int) -> None:
    """Moves a reader that is locked."""
    await connection.execute("UPDATE readers SET sequence = %s, update_time = now() WHERE name = %s", (sequence, name))


def truth_values(low: datetime, high: datetime, cursor: int) -> dict[str, object]:
    """The values of a query for what the records of a time say."""
    return {
        "low": low,
        "high": high,
        "low_id": floor(max(time_us(low) // 1000 - ID_SLACK_MS, 0)),
        "high_id": floor(max(time_us(high) // 1000 + ID_SLACK_MS, 0)),
        "cursor": cursor,
    }


def _day(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


async def _check_kept(connection: Connection, low: datetime) -> None:
    cursor = await connection.execute("SELECT kept_from FROM usage_head")
    row = await cursor.fetchone()
    if row is not None and row[0] is not None and low < row[0]:
        raise CodedError(ErrorCode.CONFLICT, f"Records are kept from {row[0]:%Y-%m-%d} on.", param="from_time")
