"""All SQL of budgets: making and changing them, where they stand, what they told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg

from crosslogic_accountant.budgets.domain import Budget, BudgetEvent, BudgetState, Period, Scope, period_start
from crosslogic_accountant.budgets.spend_store import add_events
from crosslogic_accountant.rollups.store import ROLLUPS, lock_reader
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction

_STATE = """
    SELECT b.id, b.org_id, b.scope, b.scope_id, b.environment_ids, b.api_key_ids, b.name, b.period,
           b.limit_picodollars, b.hard, b.thresholds_percent, b.owners, b.create_time, b.delete_time IS NOT NULL,
           b.number, greatest(b.version, coalesce(s.version, 0)), budget_period_start(b.period, now()),
           coalesce(s.spent_picodollars, 0), coalesce(s.held_picodollars, 0)
    FROM budgets b
    LEFT JOIN budget_spend s ON s.budget_id = b.id AND s.period_start = budget_period_start(b.period, now())
"""
_CHANGED = f"""
    WITH changed AS (
        SELECT id, version FROM budgets WHERE version > %(after)s
        UNION ALL
        SELECT budget_id, version FROM budget_spend WHERE version > %(after)s
        ORDER BY version LIMIT %(limit)s
    )
    {_STATE} JOIN (SELECT id, max(version) AS reached FROM changed GROUP BY id) c ON c.id = b.id ORDER BY c.reached
"""
_REACHED = """
    SELECT max(version) FROM (
        (SELECT version FROM budgets WHERE version > %(after)s ORDER BY version LIMIT %(limit)s)
        UNION ALL
        (SELECT version FROM budget_spend WHERE version > %(after)s ORDER BY version LIMIT %(limit)s)
        ORDER BY version LIMIT %(limit)s
    ) v
"""
_INSERT = """
    INSERT INTO budgets (id, org_id, scope, scope_id, environment_ids, api_key_ids, name, period, limit_picodollars,
                         hard, thresholds_percent, owners, version)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, nextval('budget_versions'))
"""
# What the rollups say of the period so far; the reader `rollups` stands still meanwhile.
_SPENT_SO_FAR = """
    SELECT coalesce(sum(r.cost_picodollars), 0) FROM usage_daily r
    WHERE r.org_id = %(org)s AND r.time >= %(start)s AND EXISTS (
        SELECT FROM budget_subjects s WHERE s.budget_id = %(budget)s
          AND ((s.scope = 1 AND s.subject = r.org_id) OR (s.scope = 3 AND s.subject = r.environment_id)
               OR (s.scope = 4 AND s.subject = r.api_key_id)))
"""
_EVENTS = """
    SELECT sequence, budget_id, org_id, name, owners, period_start, threshold_percent, spent_picodollars,
           limit_picodollars, stopped, event_time
    FROM budget_events
    WHERE sequence > %(after)s AND (%(org)s::uuid IS NULL OR org_id = %(org)s)
      AND (%(budget)s::uuid IS NULL OR budget_id = %(budget)s)
    ORDER BY sequence LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class BudgetChange:
    """What is to be changed of a budget. None: nothing of that."""

    name: str | None = None
    limit_picodollars: int | None = None
    hard: bool | None = None
    thresholds_percent: tuple[int, ...] | None = None
    owners: tuple[str, ...] | None = None

    def columns(self) -> dict[str, object]:
        """Column by column."""
        values: dict[str, object] = {
            "name": self.name,
            "limit_picodollars": self.limit_picodollars,
            "hard": self.hard,
            "thresholds_percent": None if self.thresholds_percent is None else list(self.thresholds_percent),
            "owners": None if self.owners is None else list(self.owners),
        }
        return {name: value for name, value in values.items() if value is not None}


class BudgetStore:
    """Budgets. Changes wait for the rollups' step under way, so that spending and versions stay in order."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def create(self, budget: Budget) -> BudgetState:
        """Makes it, or finds it as it was made. Raises CONFLICT, UNAVAILABLE."""
        try:
            async with transaction(self._pool) as connection:
                await lock_reader(connection, ROLLUPS, wait=True)
                await connection.execute(_INSERT, _row(budget))
                async with connection.cursor() as cursor:
                    await cursor.executemany(
                        "INSERT INTO budget_subjects (budget_id, scope, subject) VALUES (%s, %s, %s)",
                        [(budget.id, scope, subject) for scope, subject in budget.subjects],
                    )
                await self._count_so_far(connection, budget)
                return await _state(connection, budget.id)
        except psycopg.errors.UniqueViolation:
            state = await self.get(budget.id)
            if state.budget != budget:
                raise CodedError(ErrorCode.CONFLICT, "That id belongs to another budget.", param="request_id") from None
            return state

    async def get(self, budget_id: UUID) -> BudgetState:
        """Raises NOT_FOUND."""
        async with transaction(self._pool) as connection:
            return await _state(connection, budget_id)

    async def page(self, org_id: UUID | None, *, after: int, limit: int) -> list[BudgetState]:
        """Budgets after a number, oldest first."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                _STATE.encode()
                + b"WHERE b.delete_time IS NULL AND b.number > %(after)s "
                + b"AND (%(org)s::uuid IS NULL OR b.org_id = %(org)s) ORDER BY b.number LIMIT %(limit)s",
                {"after": after, "org": org_id, "limit": limit},
            )
            return [_budget_state(row) for row in await cursor.fetchall()]

    async def update(self, budget_id: UUID, change: BudgetChange) -> BudgetState:
        """Changes it. A threshold that is reached by the change is told at once. Raises NOT_FOUND."""
        columns = change.columns()
        async with transaction(self._pool) as connection:
            await lock_reader(connection, ROLLUPS, wait=True)
            state = await _state(connection, budget_id)
            if columns:
                assignments = "".join(f"{name} = %({name})s, " for name in columns)
                await connection.execute(
                    f"UPDATE budgets SET {assignments}version = nextval('budget_versions') WHERE id = %(id)s".encode(),
                    {**columns, "id": budget_id},
                )
                await add_events(connection, [(budget_id, state.period_start)])
            return await _state(connection, budget_id)

    async def delete(self, budget_id: UUID) -> None:
        """Ends it. Raises NOT_FOUND when there never was one."""
        async with transaction(self._pool) as connection:
            await lock_reader(connection, ROLLUPS, wait=True)
            done = await connection.execute(
                "UPDATE budgets SET delete_time = coalesce(delete_time, now()), version = nextval('budget_versions') "
                "WHERE id = %s",
                (budget_id,),
            )
            if done.rowcount == 0:
                raise _no_such_budget()

    async def events(self, *, org_id: UUID | None, budget_id: UUID | None, after: int, limit: int) -> list[BudgetEvent]:
        """Events after a sequence, in order."""
        values = {"org": org_id, "budget": budget_id, "after": after, "limit": limit}
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(_EVENTS, values)
            return [_event(row) for row in await cursor.fetchall()]

    async def changed(self, after: int, *, limit: int) -> tuple[list[BudgetState], int]:
        """Budgets that changed after a version, deleted ones among them, and the version up to which that is all."""
        values = {"after": after, "limit": limit}
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(_REACHED, values)
            row = await cursor.fetchone()
            if row is None or row[0] is None:
                return [], after
            cursor = await connection.execute(_CHANGED.encode(), values)
            states = [_budget_state(row) for row in await cursor.fetchall()]
        return states, int(row[0])

    async def _count_so_far(self, connection: Connection, budget: Budget) -> None:
        start = period_start(budget.period, datetime.now(UTC))
        values: Mapping[str, object] = {"org": budget.org_id, "start": start, "budget": budget.id}
        cursor = await connection.execute(_SPENT_SO_FAR, values)
        row = await cursor.fetchone()
        await connection.execute(
            "INSERT INTO budget_spend (budget_id, period_start, spent_picodollars, version) "
            "VALUES (%s, %s, %s, nextval('budget_versions'))",
            (budget.id, start, row[0] if row else 0),
        )
        await add_events(connection, [(budget.id, start)])


async def _state(connection: Connection, budget_id: UUID) -> BudgetState:
    cursor = await connection.execute(_STATE.encode() + b"WHERE b.id = %s AND b.delete_time IS NULL", (budget_id,))
    row = await cursor.fetchone()
    if row is None:
        raise _no_such_budget()
    return _budget_state(row)


def _no_such_budget() -> CodedError:
    return CodedError(ErrorCode.NOT_FOUND, "There is no such budget.", param="id")


def _row(budget: Budget) -> Sequence[object]:
    return (
        budget.id,
        budget.org_id,
        budget.scope,
        budget.scope_id,
        list(budget.environment_ids),
        list(budget.api_key_ids),
        budget.name,
        budget.period,
        budget.limit_picodollars,
        budget.hard,
        list(budget.thresholds_percent),
        list(budget.owners),
    )


def _budget_state(row: tuple[Any, ...]) -> BudgetState:
    budget = Budget(
        id=row[0],
        org_id=row[1],
        scope=Scope(row[2]),
        scope_id=row[3],
        environment_ids=tuple(row[4]),
        api_key_ids=tuple(row[5]),
        name=row[6],
        period=Period(row[7]),
        limit_picodollars=int(row[8]),
        hard=row[9],
        thresholds_percent=tuple(row[10]),
        owners=tuple(row[11]),
    )
    return BudgetState(
        budget=budget,
        create_time=row[12],
        deleted=row[13],
        number=int(row[14]),
        version=int(row[15]),
        period_start=row[16],
        spent_picodollars=int(row[17]),
        held_picodollars=int(row[18]),
    )


def _event(row: tuple[Any, ...]) -> BudgetEvent:
    return BudgetEvent(
        sequence=int(row[0]),
        budget_id=row[1],
        org_id=row[2],
        name=row[3],
        owners=tuple(row[4]),
        period_start=row[5],
        threshold_percent=int(row[6]),
        spent_picodollars=int(row[7]),
        limit_picodollars=int(row[8]),
        stopped=row[9],
        event_time=row[10],
    )
