"""All SQL that reads the ledger for people. Each query walks an index, has a page and a time limit."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

from crosslogic_accountant.domain import LedgerRow
from crosslogic_accountant.ledger_rows import COLUMNS, ledger_row, time_us
from crosslogic_accountant.rollups.plan import BEGINNING, END, Plan, plan
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import floor
from crosslogic_common.paging import bad_token, unwrap, wrap
from crosslogic_common.postgres import Pool, database_errors

MAX_GROUPS = 4
ID_SLACK_MS = 10_800_000
"""A request's id and its start time are read moments apart; the id only narrows which index entries are looked at."""


class Group(StrEnum):
    """What usage can be grouped by; the value is the field of a sum's row."""

    ORG = "org_id"
    ENVIRONMENT = "environment_id"
    API_KEY = "api_key_id"
    MODEL = "model"
    REGION = "region"
    HOUR = "hour"
    DAY = "day"


_EXPRESSIONS: dict[Group, LiteralString] = {
    Group.ORG: "u.org_id",
    Group.ENVIRONMENT: "u.environment_id",
    Group.API_KEY: "u.api_key_id",
    Group.MODEL: "u.model",
    Group.REGION: "u.region",
    Group.HOUR: "date_trunc('hour', u.time, 'UTC')",
    Group.DAY: "date_trunc('day', u.time, 'UTC')",
}
# A row's place is counted from its batch's: too much to ask for a whole list.
_SEQUENCE = """(
    SELECT c.last_sequence - c.row_count + (
        SELECT count(*) FROM usage_records n
        WHERE n.batch = u.batch AND (n.request_id, n.revision) <= (u.request_id, u.revision))
    FROM usage_commits c WHERE c.batch = u.batch)"""
_TIMES = frozenset({Group.HOUR, Group.DAY})
_OWNERS = ("org_id", "environment_id", "api_key_id", "model", "region", "request_id")
_SUMMED = (
    *("org_id", "environment_id", "api_key_id", "model", "region"),
    *("requests", "prompt_tokens", "cached_prompt_tokens", "completion_tokens", "cost_picodollars"),
)
# Batch by batch, each by its index: OFFSET 0 keeps the planner from a join that reads whole months.
_NOT_ROLLED_UP = """(
        SELECT batch FROM usage_commits WHERE last_sequence > (SELECT sequence FROM readers WHERE name = 'rollups')
    ) c CROSS JOIN LATERAL (SELECT * FROM usage_records WHERE batch = c.batch OFFSET 0) u"""
_TEXTS = frozenset({Group.MODEL, Group.REGION})


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records; None does not restrict. Times are of the request's start, `until` excluded."""

    org_id: UUID | None = None
    environment_id: UUID | None = None
    api_key_id: UUID | None = None
    model: str | None = None
    region: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    request_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the records that share `keys`, which are in the order of the grouping."""

    keys: tuple[Any, ...]
    requests: int
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    cost_picodollars: int


@dataclass(frozen=True, slots=True)
class ListedRecord:
    """An effective record."""

    row: LedgerRow
    record_time: datetime
    billed: bool = False
    sequence: int = 0
    """Only known where a single request was asked for."""


class UsageQueries:
    """Reads over a pool of its own: a heavy question never holds up a record."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def sums(
        self, restriction: Filter, groups: Sequence[Group], *, limit: int, token: str
    ) -> tuple[list[Sums], str]:
        """One page of sums by the grouping's columns, and the token of the next. Raises INVALID_ARGUMENT, TIMEOUT.

        Whole days and hours come from the rollups, what these do not cover yet from the records, all in one statement
        and so as of one moment. A reversal counts negative, so the sum is right whatever was corrected.
        """
        keys = [sql.SQL(_EXPRESSIONS[group]) for group in groups]
        source, values = _source(restriction, by_hour=Group.HOUR in groups)
        condition: sql.Composable = sql.SQL("")
        if token and groups:
            condition = sql.SQL("WHERE ({}) > ({})").format(
                sql.SQL(", ").join(keys), sql.SQL(", ").join([sql.Placeholder()] * len(keys))
            )
            values += _read_key_token(token, groups)
        elif token:
            raise bad_token()
        key_list = sql.SQL(", ").join(keys)
        query = sql.SQL(
            "SELECT {keys} coalesce(sum(u.requests), 0), coalesce(sum(u.prompt_tokens), 0), "
            "coalesce(sum(u.cached_prompt_tokens), 0), coalesce(sum(u.completion_tokens), 0), "
            "coalesce(sum(u.cost_picodollars), 0) FROM ({source}) u {where} {group} LIMIT {limit}"
        ).format(
            keys=key_list + sql.SQL(",") if keys else sql.SQL(""),
            source=source,
            where=condition,
            group=sql.SQL("GROUP BY {keys} HAVING sum(u.requests) <> 0 ORDER BY {keys}").format(keys=key_list)
            if keys
            else sql.SQL(""),
            limit=limit + 1,
        )
        count = len(keys)
        rows = [
            Sums(tuple(row[:count]), *(int(value) for value in row[count:])) for row in await self._fetch(query, values)
        ]
        more = len(rows) > limit
        return rows[:limit], _key_token(rows[limit - 1].keys) if more else ""

    async def records(self, restriction: Filter, *, limit: int, token: str) -> tuple[list[ListedRecord], str]:
        """One page of effective records, newest first, and the token of the next. Raises INVALID_ARGUMENT, TIMEOUT."""
        conditions, values = _conditions(restriction)
        if token:
            conditions.append(sql.SQL("u.request_id < %s"))
            values.append(_read_id_token(token))
        conditions += [
            sql.SQL("u.requests = 1"),
            sql.SQL(
                "NOT EXISTS (SELECT FROM usage_records later "
                "WHERE later.request_id = u.request_id AND later.revision > u.revision)"
            ),
        ]
        query = sql.SQL(
            "SELECT {columns}, u.record_time, EXISTS (SELECT FROM usage_commits c, readers b WHERE c.batch = u.batch "
            "AND b.name = 'billing' AND c.last_sequence <= b.sequence), {sequence} "
            "FROM usage_records u {where} ORDER BY u.request_id DESC LIMIT {limit}"
        ).format(
            columns=sql.SQL(", ").join(sql.Identifier("u", name) for name in COLUMNS),
            sequence=sql.SQL(_SEQUENCE if restriction.request_id else "0"),
            where=_where(conditions),
            limit=limit + 1,
        )
        rows = [
            ListedRecord(ledger_row(row[:-3]), row[-3], billed=row[-2], sequence=row[-1])
            for row in await self._fetch(query, values)
        ]
        last = rows[limit - 1].row.record.request_id if len(rows) > limit else b""
        return rows[:limit], wrap(str(UUID(bytes=last))) if last else ""

    async def _fetch(self, query: sql.Composed, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            with database_errors():
                async with self._pool.connection() as connection:
                    cursor = await connection.execute(query, values)
                    return await cursor.fetchall()
        except CodedError as error:
            if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
                raise CodedError(
                    ErrorCode.TIMEOUT, "That is too much to add up at once: ask for a shorter time or a single tenant."
                ) from error
            raise


def _source(restriction: Filter, *, by_hour: bool) -> tuple[sql.Composable, list[object]]:
    """Everything that adds up to the answer: rollups, the records that are not in them yet, the edges' records."""
    if restriction.request_id is not None:
        ranges = Plan(records=((restriction.since or BEGINNING, restriction.until or END),))
    else:
        ranges = plan(restriction.since, restriction.until, by_hour=by_hour)
    owners, owner_values = _owners(restriction)
    parts: list[sql.Composable] = [_nothing()]
    values: list[object] = []
    for table, covered in (("usage_daily", ranges.days), ("usage_hourly", ranges.hours)):
        for low, high in covered:
            where = _where([*owners, sql.SQL("u.time >= %s AND u.time < %s")])
            parts.append(
                sql.SQL("SELECT {columns}, u.time FROM {table} u {where}").format(
                    columns=_summed(), table=sql.Identifier(table), where=where
                )
            )
            values += [*owner_values, low, high]
    for low, high in ranges.records:
        conditions, edge_values = _conditions(replace(restriction, since=low, until=high))
        parts.append(
            sql.SQL("SELECT {columns}, u.start_time FROM usage_records u {where}").format(
                columns=_summed(), where=_where(conditions)
            )
        )
        values += edge_values
    if ranges.rolled:
        times = sql.SQL(" OR ").join([sql.SQL("u.start_time >= %s AND u.start_time < %s")] * len(ranges.rolled))
        parts.append(
            sql.SQL("SELECT {columns}, u.start_time FROM {fresh} {where}").format(
                columns=_summed(),
                fresh=sql.SQL(_NOT_ROLLED_UP),
                where=_where([*owners, sql.SQL("({})").format(times)]),
            )
        )
        values += [*owner_values, *(edge for each in ranges.rolled for edge in each)]
    return sql.SQL(" UNION ALL ").join(parts), values


def _nothing() -> sql.Composable:
    return sql.SQL("SELECT {columns}, u.time FROM usage_daily u WHERE false").format(columns=_summed())


def _summed() -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier("u", name) for name in _SUMMED)


def _owners(restriction: Filter) -> tuple[list[sql.Composable], list[object]]:
    names = [name for name in _OWNERS if getattr(restriction, name) is not None]
    conditions: list[sql.Composable] = [sql.SQL("{} = %s").format(sql.Identifier("u", name)) for name in names]
    return conditions, [getattr(restriction, name) for name in names]


def _conditions(restriction: Filter) -> tuple[list[sql.Composable], list[object]]:
    conditions, values = _owners(restriction)

    def add(condition: LiteralString, value: object) -> None:
        conditions.append(sql.SQL(condition))
        values.append(value)

    if restriction.since is not None:
        add("u.start_time >= %s", restriction.since)
        add("u.request_id >= %s", floor(max(time_us(restriction.since) // 1000 - ID_SLACK_MS, 0)))
    if restriction.until is not None:
        add("u.start_time < %s", restriction.until)
        add("u.request_id < %s", floor(max(time_us(restriction.until) // 1000 + ID_SLACK_MS, 0)))
    return conditions, values


def _where(conditions: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL("WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")


def _key_token(keys: tuple[Any, ...]) -> str:
    return wrap(json.dumps([time_us(key) if isinstance(key, datetime) else str(key) for key in keys]))


def _read_key_token(token: str, groups: Sequence[Group]) -> list[object]:
    try:
        keys = json.loads(unwrap(token))
        if not isinstance(keys, list) or len(keys) != len(groups):
            raise bad_token()
        return [_read_key(key, group) for key, group in zip(keys, groups, strict=True)]
    except (ValueError, TypeError, OverflowError, AttributeError):
        raise bad_token() from None


def _read_key(key: Any, group: Group) -> object:
    if group in _TIMES:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=key)
    if group in _TEXTS:
        if not isinstance(key, str) or "\0" in key:
            raise bad_token()
        return key
    return UUID(key)


def _read_id_token(token: str) -> UUID:
    try:
        return UUID(unwrap(token))
    except ValueError:
        raise bad_token() from None
