"""All SQL that moves what is spent and held of budgets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from crosslogic_accountant.rollups.store import SpendDelta
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection

PeriodKey = tuple[UUID, datetime]
"""A budget and the start of a period."""

# A department that names an environment and one of its keys counts a request of that key once: hence DISTINCT.
_COVERED = """
    WITH delta AS (
        SELECT * FROM unnest(%(org)s::uuid[], %(environment)s::uuid[], %(key)s::uuid[], %(day)s::timestamptz[],
                             %(cost)s::numeric[]) AS d (org_id, environment_id, api_key_id, day, cost)
    ), covered AS (
        SELECT DISTINCT b.id, b.period, d.org_id, d.environment_id, d.api_key_id, d.day, d.cost
        FROM delta d
        JOIN budget_subjects s ON (s.scope = 1 AND s.subject = d.org_id)
            OR (s.scope = 3 AND s.subject = d.environment_id) OR (s.scope = 4 AND s.subject = d.api_key_id)
        JOIN budgets b ON b.id = s.budget_id AND b.org_id = d.org_id AND b.delete_time IS NULL
    )
    SELECT id, budget_period_start(period, day), sum(cost) FROM covered GROUP BY 1, 2
"""
_LOCK = """
    SELECT 1 FROM budget_spend s JOIN unnest(%s::uuid[], %s::timestamptz[]) AS k (budget_id, period_start)
        ON k.budget_id = s.budget_id AND k.period_start = s.period_start
    ORDER BY s.budget_id, s.period_start FOR UPDATE OF s
"""
_MOVE = """
    INSERT INTO budget_spend AS s (budget_id, period_start, spent_picodollars, version)
    VALUES (%(budget)s, %(start)s, %(spent)s, nextval('budget_versions'))
    ON CONFLICT (budget_id, period_start) DO UPDATE SET
        spent_picodollars = s.spent_picodollars + excluded.spent_picodollars,
        held_picodollars = s.held_picodollars - %(released)s, version = excluded.version
"""
_ADD_EVENTS = """
    INSERT INTO budget_events (sequence, budget_id, period_start, threshold_percent, org_id, name, owners,
                               spent_picodollars, limit_picodollars, stopped)
    SELECT nextval('budget_versions'), b.id, s.period_start, t.percent, b.org_id, b.name, b.owners,
           s.spent_picodollars, b.limit_picodollars, b.hard AND s.spent_picodollars >= b.limit_picodollars
    FROM unnest(%s::uuid[], %s::timestamptz[]) AS k (budget_id, period_start)
    JOIN budget_spend s ON s.budget_id = k.budget_id AND s.period_start = k.period_start
    JOIN budgets b ON b.id = s.budget_id AND b.delete_time IS NULL
    CROSS JOIN LATERAL unnest(b.thresholds_percent) AS t (percent)
    WHERE s.spent_picodollars * 100 >= b.limit_picodollars::numeric * t.percent
      AND NOT EXISTS (
        SELECT FROM budget_events e
        WHERE e.budget_id = b.id AND e.period_start = s.period_start AND e.threshold_percent = t.percent)
    ORDER BY b.id, t.percent
"""
_HARD = """
    SELECT DISTINCT b.id, b.name, budget_period_start(b.period, now()) FROM budgets b
    JOIN budget_subjects s ON s.budget_id = b.id
    WHERE b.org_id = %(org)s AND b.hard AND b.delete_time IS NULL
      AND ((s.scope = 1 AND s.subject = %(org)s) OR (s.scope = 3 AND s.subject = %(environment)s)
           OR (s.scope = 4 AND s.subject = %(key)s))
    ORDER BY b.id
"""
# The guard: decided on the row as it is when its lock is had, however many wait for it.
_HOLD = """
    UPDATE budget_spend s SET held_picodollars = s.held_picodollars + %(amount)s FROM budgets b
    WHERE s.budget_id = %(budget)s AND s.period_start = %(start)s AND b.id = s.budget_id
      AND s.spent_picodollars + s.held_picodollars + %(amount)s <= b.limit_picodollars
"""


@dataclass(frozen=True, slots=True)
class HeldBudget:
    """A budget that a hold counts against."""

    budget_id: UUID
    period_start: datetime


async def add_spend(connection: Connection, deltas: Sequence[SpendDelta], released: Mapping[PeriodKey, int]) -> None:
    """Counts spending, takes back what ended holds had held, and writes events for thresholds that were reached.

    The caller holds the reader `rollups`.
    """
    spent = await _covered(connection, deltas)
    keys = sorted({*spent, *released})
    if not keys:
        return
    columns = ([key[0] for key in keys], [key[1] for key in keys])
    await connection.execute(_LOCK, columns)
    async with connection.cursor() as cursor:
        await cursor.executemany(
            _MOVE,
            [
                {"budget": key[0], "start": key[1], "spent": spent.get(key, 0), "released": released.get(key, 0)}
                for key in keys
            ],
        )
    await add_events(connection, keys)


async def add_events(connection: Connection, keys: Iterable[PeriodKey]) -> None:
    """Writes an event for each threshold that is reached and has none. The caller holds the reader `rollups`."""
    wanted = list(keys)
    await connection.execute(_ADD_EVENTS, ([key[0] for key in wanted], [key[1] for key in wanted]))


async def hold_budgets(
    connection: Connection, *, org_id: UUID, environment_id: UUID | None, api_key_id: UUID | None, amount: int
) -> list[HeldBudget]:
    """Holds an amount of every hard budget that covers a request. Raises RATE_LIMITED where one has no room."""
    cursor = await connection.execute(_HARD, {"org": org_id, "environment": environment_id, "key": api_key_id})
    held: list[HeldBudget] = []
    for budget_id, name, start in await cursor.fetchall():
        values = {"budget": budget_id, "start": start, "amount": amount}
        await connection.execute(
            "INSERT INTO budget_spend (budget_id, period_start) VALUES (%(budget)s, %(start)s) ON CONFLICT DO NOTHING",
            values,
        )
        done = await connection.execute(_HOLD, values)
        if done.rowcount != 1:
            raise CodedError(ErrorCode.RATE_LIMITED, f"The budget `{name}` has no room for this request.")
        held.append(HeldBudget(budget_id, start))
    return held


async def release_budgets(connection: Connection, hold_ids: Sequence[UUID], *, keep: int = 0) -> None:
    """Gives back what holds held of budgets, but for `keep` each."""
    released = await take_back(connection, hold_ids, keep=keep)
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "UPDATE budget_spend SET held_picodollars = held_picodollars - %s "
            "WHERE budget_id = %s AND period_start = %s",
            [(amount, *key) for key, amount in sorted(released.items())],
        )


async def take_back(connection: Connection, hold_ids: Sequence[UUID], *, keep: int = 0) -> dict[PeriodKey, int]:
    """What holds hold of each budget beyond `keep`; the caller takes it off."""
    if keep:
        cursor = await connection.execute(
            "WITH old AS (SELECT * FROM hold_budgets WHERE hold_id = ANY(%(ids)s) FOR UPDATE) "
            "UPDATE hold_budgets h SET held_picodollars = %(keep)s FROM old "
            "WHERE h.hold_id = old.hold_id AND h.budget_id = old.budget_id AND old.held_picodollars > %(keep)s "
            "RETURNING h.budget_id, h.period_start, old.held_picodollars - %(keep)s",
            {"ids": list(hold_ids), "keep": keep},
        )
    else:
        cursor = await connection.execute(
            "DELETE FROM hold_budgets WHERE hold_id = ANY(%s) RETURNING budget_id, period_start, held_picodollars",
            (list(hold_ids),),
        )
    released: dict[PeriodKey, int] = {}
    for budget_id, start, amount in await cursor.fetchall():
        released[budget_id, start] = released.get((budget_id, start), 0) + int(amount)
    return released


async def _covered(connection: Connection, deltas: Sequence[SpendDelta]) -> dict[PeriodKey, int]:
    if not deltas:
        return {}
    cursor = await connection.execute(
        _COVERED,
        {
            "org": [delta.org_id for delta in deltas],
            "environment": [delta.environment_id for delta in deltas],
            "key": [delta.api_key_id for delta in deltas],
            "day": [delta.day for delta in deltas],
            "cost": [delta.cost_picodollars for delta in deltas],
        },
    )
    return {(row[0], row[1]): int(row[2]) for row in await cursor.fetchall()}
