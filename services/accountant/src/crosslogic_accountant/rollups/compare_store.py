"""Witnesses, records, rollups and cursors of a period, side by side, as of one moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from crosslogic_accountant.domain import Counts, CountSource
from crosslogic_accountant.ledger_rows import time_us
from crosslogic_accountant.record_log_store import BILLING
from crosslogic_accountant.rollups.store import ROLLUPS, reader_sequence, truth_values
from crosslogic_common.ids import floor
from crosslogic_common.postgres import Connection, Pool, transaction

_TIMEOUT_S = 60.0
_TOTALS = """coalesce(sum({r}.requests), 0), coalesce(sum({r}.prompt_tokens), 0),
    coalesce(sum({r}.cached_prompt_tokens), 0), coalesce(sum({r}.completion_tokens), 0),
    coalesce(sum({r}.cost_picodollars), 0)"""
_IN_PERIOD = """u.start_time >= %(low)s AND u.start_time < %(high)s
    AND u.request_id >= %(low_id)s AND u.request_id < %(high_id)s AND (%(org)s::uuid IS NULL OR u.org_id = %(org)s)"""
_NOT_ROLLED_UP = "EXISTS (SELECT FROM usage_commits c WHERE c.batch = u.batch AND c.last_sequence > %(cursor)s)"
_RECORDS = f"SELECT {_TOTALS.format(r='u')} FROM usage_records u WHERE {_IN_PERIOD}"
_FROM_WITNESSES = f"{_RECORDS} AND u.from_witness"
_FRESH = f"{_RECORDS} AND {_NOT_ROLLED_UP}"
_HOURLY = f"""
    SELECT {_TOTALS.format(r="h")} FROM usage_hourly h
    WHERE h.time >= %(low)s AND h.time < %(high)s AND (%(org)s::uuid IS NULL OR h.org_id = %(org)s)
"""
_WITNESS_DIFFERENCES = f"""
    FROM witness_differences d JOIN usage_records u ON u.request_id = d.request_id AND u.revision = 0
    WHERE {_IN_PERIOD}
"""
_LISTED_WITNESSES = f"""
    SELECT d.request_id, d.node_id, d.gateway_prompt_tokens, d.gateway_cached_prompt_tokens,
           d.gateway_completion_tokens, d.gateway_outcome, d.witness_prompt_tokens, d.witness_cached_prompt_tokens,
           d.witness_completion_tokens, d.witness_outcome
    {_WITNESS_DIFFERENCES} ORDER BY d.request_id, d.node_id LIMIT %(limit)s
"""
_CORRECTIONS = f"""
    SELECT count(*) FROM corrections k JOIN usage_records u ON u.request_id = k.request_id AND u.revision = 0
    WHERE {_IN_PERIOD}
"""
_UNPAID = """
    SELECT count(*), coalesce(sum(w.prompt_tokens), 0), coalesce(sum(w.cached_prompt_tokens), 0),
           coalesce(sum(w.completion_tokens), 0), 0
    FROM unpaid_witnesses w WHERE w.request_id >= %(first_id)s AND w.request_id < %(end_id)s
      AND NOT EXISTS (SELECT FROM usage_records u WHERE u.request_id = w.request_id)
"""
_SUMS = """sum(requests) AS requests, sum(prompt_tokens) AS prompt_tokens,
    sum(cached_prompt_tokens) AS cached_prompt_tokens, sum(completion_tokens) AS completion_tokens,
    sum(cost_picodollars) AS cost_picodollars"""
_COMPARED = """
    SELECT coalesce(t.org_id, r.org_id), coalesce(t.time, r.time),
           coalesce(t.requests, 0), coalesce(t.prompt_tokens, 0), coalesce(t.cached_prompt_tokens, 0),
           coalesce(t.completion_tokens, 0), coalesce(t.cost_picodollars, 0),
           coalesce(r.requests, 0), coalesce(r.prompt_tokens, 0), coalesce(r.cached_prompt_tokens, 0),
           coalesce(r.completion_tokens, 0), coalesce(r.cost_picodollars, 0), count(*) OVER ()
    FROM truth t FULL JOIN rolled r ON r.org_id = t.org_id AND r.time = t.time
    WHERE (coalesce(t.requests, 0), coalesce(t.prompt_tokens, 0), coalesce(t.cached_prompt_tokens, 0),
           coalesce(t.completion_tokens, 0), coalesce(t.cost_picodollars, 0)) IS DISTINCT FROM
          (coalesce(r.requests, 0), coalesce(r.prompt_tokens, 0), coalesce(r.cached_prompt_tokens, 0),
           coalesce(r.completion_tokens, 0), coalesce(r.cost_picodollars, 0))
    ORDER BY 2, 1 LIMIT %(limit)s
"""
_HOURS_COMPARED = f"""
    WITH truth AS MATERIALIZED (
        SELECT u.org_id, date_trunc('hour', u.start_time, 'UTC') AS time, {_SUMS} FROM usage_records u
        WHERE {_IN_PERIOD} AND NOT {_NOT_ROLLED_UP} GROUP BY 1, 2
    ), rolled AS MATERIALIZED (
        SELECT org_id, time, {_SUMS} FROM usage_hourly
        WHERE time >= %(low)s AND time < %(high)s AND (%(org)s::uuid IS NULL OR org_id = %(org)s) GROUP BY 1, 2
    ) {_COMPARED}
"""
# A day's sum against its hours', of the days that begin in the period.
_DAYS_COMPARED = f"""
    WITH rolled AS MATERIALIZED (
        SELECT org_id, time, {_SUMS} FROM usage_daily
        WHERE time >= %(low)s AND time < %(high)s AND (%(org)s::uuid IS NULL OR org_id = %(org)s) GROUP BY 1, 2
    ), truth AS MATERIALIZED (
        SELECT org_id, date_trunc('day', time, 'UTC') AS time, {_SUMS} FROM usage_hourly
        WHERE time >= date_trunc('day', %(low)s::timestamptz + interval '1 day' - interval '1 microsecond', 'UTC')
          AND time < date_trunc('day', %(high)s::timestamptz - interval '1 microsecond', 'UTC') + interval '1 day'
          AND (%(org)s::uuid IS NULL OR org_id = %(org)s) GROUP BY 1, 2
    ) {_COMPARED}
"""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of one source."""

    requests: int
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    cost_picodollars: int

    def __add__(self, other: "Totals") -> "Totals":
        """Both together."""
        return Totals(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_prompt_tokens + other.cached_prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost_picodollars + other.cost_picodollars,
        )


@dataclass(frozen=True, slots=True)
class WitnessDifference:
    """A node that counted otherwise than the gateway."""

    request_id: UUID
    node_id: str
    gateway: Counts
    gateway_outcome: int
    witness: Counts
    witness_outcome: int


@dataclass(frozen=True, slots=True)
class RollupDifference:
    """A sum that is not what its records say."""

    org_id: UUID
    time: datetime
    daily: bool
    records: Totals
    rollup: Totals


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found."""

    records: Totals
    rollups: Totals
    settled_from_witnesses: Totals
    unpaid_witnesses: Totals
    """Of all organisations, by the time of the request's id."""
    witness_differences: Sequence[WitnessDifference]
    witness_differences_total: int
    rollup_differences: Sequence[RollupDifference]
    rollup_differences_total: int
    corrections: int
    open_witnesses: int
    last_sequence: int
    rolled_up_sequence: int
    billed_sequence: int


class UsageComparer:
    """Compares; changes nothing."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def compare(self, low: datetime, high: datetime, org_id: UUID | None, *, limit: int) -> Comparison:
        """Requests that started from `low` up to `high`. Raises UNAVAILABLE."""
        async with transaction(self._pool, timeout_s=_TIMEOUT_S) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            await connection.execute(f"SET LOCAL statement_timeout = '{_TIMEOUT_S:.0f}s'".encode())
            cursor = await reader_sequence(connection, ROLLUPS)
            values = {
                **truth_values(low, high, cursor),
                "org": org_id,
                "limit": limit,
                "first_id": floor(max(time_us(low) // 1000, 0)),
                "end_id": floor(max(time_us(high) // 1000, 0)),
            }
            hours, wrong_hours = await _compared(connection, _HOURS_COMPARED, values, daily=False)
            days, wrong_days = await _compared(connection, _DAYS_COMPARED, values, daily=True)
            return Comparison(
                records=await _totals(connection, _RECORDS, values),
                rollups=await _totals(connection, _HOURLY, values) + await _totals(connection, _FRESH, values),
                settled_from_witnesses=await _totals(connection, _FROM_WITNESSES, values),
                unpaid_witnesses=await _totals(connection, _UNPAID, values),
                witness_differences=await _witnesses(connection, values),
                witness_differences_total=await _count(connection, f"SELECT count(*) {_WITNESS_DIFFERENCES}", values),
                rollup_differences=[*hours, *days][:limit],
                rollup_differences_total=wrong_hours + wrong_days,
                corrections=await _count(connection, _CORRECTIONS, values),
                open_witnesses=await _count(connection, "SELECT count(*) FROM witnesses", {}),
                last_sequence=await _count(connection, "SELECT last_sequence FROM usage_head", {}),
                rolled_up_sequence=cursor,
                billed_sequence=await reader_sequence(connection, BILLING),
            )


async def _totals(connection: Connection, query: str, values: dict[str, object]) -> Totals:
    row = await (await connection.execute(query.encode(), values)).fetchone()
    return _read_totals(row or (0,) * 5)


async def _count(connection: Connection, query: str, values: dict[str, object]) -> int:
    row = await (await connection.execute(query.encode(), values)).fetchone()
    return int(row[0]) if row else 0


async def _compared(
    connection: Connection, query: str, values: dict[str, object], *, daily: bool
) -> tuple[list[RollupDifference], int]:
    rows = await (await connection.execute(query.encode(), values)).fetchall()
    found = [
        RollupDifference(row[0], row[1], daily, records=_read_totals(row[2:7]), rollup=_read_totals(row[7:12]))
        for row in rows
    ]
    return found, int(rows[0][12]) if rows else 0


async def _witnesses(connection: Connection, values: dict[str, object]) -> list[WitnessDifference]:
    rows = await (await connection.execute(_LISTED_WITNESSES.encode(), values)).fetchall()
    return [
        WitnessDifference(
            request_id=row[0],
            node_id=row[1],
            gateway=_counts(row[2:5]),
            gateway_outcome=row[5],
            witness=_counts(row[6:9]),
            witness_outcome=row[9],
        )
        for row in rows
    ]


def _counts(values: Sequence[Any]) -> Counts:
    prompt, cached, completion = values
    return Counts(prompt, cached, completion, CountSource.ENGINE_FINAL)


def _read_totals(values: Sequence[Any]) -> Totals:
    requests, prompt, cached, completion, cost = (int(value) for value in values)
    return Totals(requests, prompt, cached, completion, cost)
