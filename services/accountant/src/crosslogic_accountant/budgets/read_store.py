"""What is spent so far, for any scopes: rollups and the records that are not in them yet, of one moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from crosslogic_accountant.budgets.domain import Period, Scope, period_start
from crosslogic_common.postgres import Pool, transaction

_COLUMNS = {Scope.ORG: "org_id", Scope.ENVIRONMENT: "environment_id", Scope.API_KEY: "api_key_id"}
_ROLLED = """
    SELECT k.id, k.start, coalesce(sum(r.cost_picodollars), 0),
           coalesce(sum(r.prompt_tokens + r.completion_tokens), 0)
    FROM unnest(%(ids)s::uuid[], %(starts)s::timestamptz[]) AS k (id, start)
    JOIN usage_daily r ON r.{column} = k.id AND r.time >= k.start
    GROUP BY 1, 2
"""
_FRESH = """
    SELECT u.org_id, u.environment_id, u.api_key_id, date_trunc('day', u.start_time, 'UTC'),
           sum(u.cost_picodollars), sum(u.prompt_tokens + u.completion_tokens)
    FROM (
        SELECT batch FROM usage_commits WHERE last_sequence > (SELECT sequence FROM readers WHERE name = 'rollups')
    ) c CROSS JOIN LATERAL (SELECT * FROM usage_records WHERE batch = c.batch OFFSET 0) u
    WHERE u.org_id = ANY(%(ids)s) OR u.environment_id = ANY(%(ids)s) OR u.api_key_id = ANY(%(ids)s)
    GROUP BY 1, 2, 3, 4
"""


@dataclass(frozen=True, slots=True)
class SpendQuery:
    """Whose spending of the current period."""

    scope: Scope
    id: UUID
    period: Period


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent."""

    period_start: datetime
    spent_picodollars: int = 0
    tokens: int = 0


class SpendReader:
    """Answers many questions at once."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def read(self, queries: Sequence[SpendQuery], now: datetime) -> tuple[list[Spend], int]:
        """What was spent by each, in order, and the last row of the ledger that is in it. Raises UNAVAILABLE."""
        keys = [(query.scope, query.id, period_start(query.period, now)) for query in queries]
        found: dict[tuple[Scope, UUID, datetime], tuple[int, int]] = dict.fromkeys(keys, (0, 0))
        by_owner: dict[tuple[Scope, UUID], list[tuple[Scope, UUID, datetime]]] = {}
        for key in found:
            by_owner.setdefault(key[:2], []).append(key)
        async with transaction(self._pool) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor = await connection.execute("SELECT last_sequence FROM usage_head")
            head = await cursor.fetchone()
            for scope, column in _COLUMNS.items():
                asked = [key for key in found if key[0] is scope]
                if not asked:
                    continue
                values = {"ids": [key[1] for key in asked], "starts": [key[2] for key in asked]}
                cursor = await connection.execute(_ROLLED.format(column=column).encode(), values)
                for subject, start, cost, tokens in await cursor.fetchall():
                    found[scope, subject, start] = (int(cost), int(tokens))
            cursor = await connection.execute(_FRESH, {"ids": [key[1] for key in found]})
            for org_id, environment_id, api_key_id, day, cost, tokens in await cursor.fetchall():
                owners = {Scope.ORG: org_id, Scope.ENVIRONMENT: environment_id, Scope.API_KEY: api_key_id}
                for key in (key for owner in owners.items() for key in by_owner.get(owner, ()) if day >= key[2]):
                    spent, counted = found[key]
                    found[key] = (spent + int(cost), counted + int(tokens))
        spends = [Spend(key[2], *found[key]) for key in keys]
        return spends, int(head[0]) if head else 0
