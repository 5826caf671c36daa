"""Plans in PostgreSQL: all their SQL."""

from dataclasses import replace
from datetime import datetime

from psycopg import errors

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Pool, transaction
from crosslogic_identity.audit_store import append
from crosslogic_identity.domain import Actor, Plan, PlanChanges
from crosslogic_identity.entries import entry_of
from crosslogic_identity.rows import PLANS
from crosslogic_identity.store import announce, known, now, one


class PostgresPlanStore:
    """Implements ports.PlanStore."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add_plan(self, plan: Plan, by: Actor) -> Plan:
        """See ports.PlanStore."""
        try:
            async with transaction(self._pool) as connection:
                await connection.execute(PLANS.insert("plans"), PLANS.values(plan))
                await append(connection, entry_of(by, "plan.create", None, plan))
                return plan
        except errors.UniqueViolation:
            raise CodedError(ErrorCode.ALREADY_EXISTS, f"There is a plan named {plan.name!r} already.") from None

    async def plan(self, name: str) -> Plan | None:
        """See ports.PlanStore."""
        async with transaction(self._pool) as connection:
            return await one(connection, PLANS, "plans", name)

    async def plans(self, after: str, limit: int) -> list[Plan]:
        """See ports.PlanStore."""
        async with transaction(self._pool) as connection:
            # By bytes, as names are compared everywhere else.
            cursor = await connection.execute(
                f'SELECT {PLANS.selected("p")} FROM plans p WHERE p.name COLLATE "C" > %s '
                'ORDER BY p.name COLLATE "C" LIMIT %s',
                (after, limit),
            )
            return [PLANS.read(row) for row in await cursor.fetchall()]

    async def change_plan(self, name: str, changes: PlanChanges, by: Actor) -> Plan:
        """See ports.PlanStore."""
        async with transaction(self._pool) as connection:
            before = known(await one(connection, PLANS, "plans", name, lock=True))
            moment: datetime = await now(connection)
            after = replace(before, **changes.values(), updated_at=moment)
            await connection.execute(PLANS.update("plans"), PLANS.values(after))
            if changes.values().keys() - {"description"}:
                await announce(connection, "plan", name)
            await append(connection, entry_of(by, "plan.update", before, after))
            return after
