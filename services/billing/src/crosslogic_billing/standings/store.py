"""All SQL of standings and of plans' terms."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Final

from psycopg.types.json import Jsonb

from crosslogic_billing.accounts.terms_json import from_json, to_json
from crosslogic_billing.rating.domain import Terms
from crosslogic_billing.standings.domain import Changes, OrgStanding, PlanStanding, Present
from crosslogic_common.postgres import Connection, Pool, transaction

_LOCK: Final = 4_201_011
"""Of the advisory lock that closing holds shared and learning holds alone."""


async def hold_standings(connection: Connection) -> None:
    """Until the transaction ends, nothing is learnt of any organisation's standing. Any number may hold them."""
    await connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (_LOCK,))


async def hold_standings_alone(connection: Connection) -> None:
    """Until the transaction ends, nobody closes a window."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


async def standings_of(connection: Connection, org_id: str) -> tuple[list[OrgStanding], dict[str, list[PlanStanding]]]:
    """Everything that is known of an organisation and of the plans it was on, by time."""
    found = await connection.execute(
        "SELECT from_time, plan, reserved_units, mode, overage FROM org_standings WHERE org_id = %s ORDER BY from_time",
        (org_id,),
    )
    orgs = [
        OrgStanding(org_id=org_id, from_time=row[0], plan=row[1], reserved_units=row[2], mode=row[3], overage=row[4])
        for row in await found.fetchall()
    ]
    plans: dict[str, list[PlanStanding]] = {}
    found = await connection.execute(
        "SELECT plan, from_time, mode, overage FROM plan_standings WHERE plan = ANY(%s) ORDER BY from_time",
        (sorted({org.plan for org in orgs}),),
    )
    for plan, from_time, mode, overage in await found.fetchall():
        plans.setdefault(plan, []).append(PlanStanding(plan=plan, from_time=from_time, mode=mode, overage=overage))
    return orgs, plans


async def plans_terms(connection: Connection, plans: Iterable[str], month: date) -> dict[str, Terms]:
    """The terms of some plans in a month, of those that have any."""
    found = await connection.execute(
        "SELECT DISTINCT ON (plan) plan, terms FROM plan_terms WHERE plan = ANY(%s) AND from_month <= %s "
        "ORDER BY plan, from_month DESC, version DESC",
        (sorted(set(plans)), month),
    )
    return {str(plan): from_json(terms) for plan, terms in await found.fetchall()}


async def read_at(connection: Connection, *, lock: bool = False) -> datetime | None:
    """Until when identity has been read. None: never."""
    found = await connection.execute("SELECT read_at FROM standing_cursor" + (" FOR UPDATE" if lock else ""))
    row = await found.fetchone()
    return None if row is None else row[0]


async def unknown(connection: Connection, changes: Changes) -> Changes:
    """Those of the changes that are not kept yet."""
    found = await connection.execute(
        "SELECT org_id, from_time FROM org_standings WHERE from_time = ANY(%s)",
        ([org.from_time for org in changes.orgs],),
    )
    orgs = {(str(org_id), from_time) for org_id, from_time in await found.fetchall()}
    found = await connection.execute(
        "SELECT plan, from_time FROM plan_standings WHERE from_time = ANY(%s)",
        ([plan.from_time for plan in changes.plans],),
    )
    plans = {(str(plan), from_time) for plan, from_time in await found.fetchall()}
    return Changes(
        tuple(org for org in changes.orgs if (org.org_id, org.from_time) not in orgs),
        tuple(plan for plan in changes.plans if (plan.plan, plan.from_time) not in plans),
    )


async def add(connection: Connection, changes: Changes) -> None:
    """Keeps changes that are not kept yet."""
    for org in changes.orgs:
        await connection.execute(
            "INSERT INTO org_standings (org_id, from_time, plan, reserved_units, mode, overage) "
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (org.org_id, org.from_time, org.plan, Jsonb(dict(org.reserved_units)), org.mode, org.overage),
        )
    for plan in changes.plans:
        await connection.execute(
            "INSERT INTO plan_standings (plan, from_time, mode, overage) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT DO NOTHING",
            (plan.plan, plan.from_time, plan.mode, plan.overage),
        )


async def was_read(connection: Connection, at: datetime) -> None:
    """Identity has been read until then."""
    await connection.execute("UPDATE standing_cursor SET read_at = %s", (at,))


async def orgs_on(connection: Connection, plans: Sequence[str]) -> set[str]:
    """Organisations that are or were on one of the plans."""
    found = await connection.execute("SELECT DISTINCT org_id FROM org_standings WHERE plan = ANY(%s)", (list(plans),))
    return {str(org_id) for (org_id,) in await found.fetchall()}


class PostgresStandings:
    """What is read of standings, and plans' terms."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def read_at(self) -> datetime | None:
        """Until when identity has been read. None: never."""
        async with transaction(self._pool) as connection:
            return await read_at(connection)

    async def present(self) -> Present:
        """How every organisation and plan stands by what is known last."""
        async with transaction(self._pool, timeout_s=60.0) as connection:
            found = await connection.execute(
                "SELECT DISTINCT ON (org_id) org_id, plan, reserved_units FROM org_standings "
                "ORDER BY org_id, from_time DESC"
            )
            orgs: Mapping[str, tuple[str, Mapping[str, int]]] = {
                str(org_id): (plan, units) for org_id, plan, units in await found.fetchall()
            }
            found = await connection.execute(
                "SELECT DISTINCT ON (plan) plan, mode, overage FROM plan_standings ORDER BY plan, from_time DESC"
            )
            return Present(orgs, {str(plan): (mode, overage) for plan, mode, overage in await found.fetchall()})

    async def plan(self, name: str) -> PlanStanding | None:
        """How a plan stands. None: identity has not told of it."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT plan, from_time, mode, overage FROM plan_standings WHERE plan = %s "
                "ORDER BY from_time DESC LIMIT 1",
                (name,),
            )
            row = await found.fetchone()
        if row is None:
            return None
        return PlanStanding(plan=row[0], from_time=row[1], mode=row[2], overage=row[3])

    async def plan_terms(self, plan: str, month: date) -> tuple[int, date, Terms] | None:
        """Version, first month and terms that hold in a month. None: there are none."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT version, from_month, terms FROM plan_terms WHERE plan = %s AND from_month <= %s "
                "ORDER BY from_month DESC, version DESC LIMIT 1",
                (plan, month),
            )
            row = await found.fetchone()
        return None if row is None else (int(row[0]), row[1], from_json(row[2]))

    async def add_plan_terms(self, plan: str, from_month: date, terms: Terms, now: datetime) -> int:
        """Makes the next version; which it is. Months that have begun are rated again by it."""
        async with transaction(self._pool) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 3))", (plan,))
            found = await connection.execute(
                "INSERT INTO plan_terms (plan, from_month, version, terms, created_at) "
                "SELECT %(plan)s, %(month)s, coalesce(max(version), 0) + 1, %(terms)s, %(now)s FROM plan_terms "
                "WHERE plan = %(plan)s RETURNING version",
                {"plan": plan, "month": from_month, "terms": Jsonb(to_json(terms)), "now": now},
            )
            row = await found.fetchone()
            await rate_again(connection, await orgs_on(connection, [plan]), from_month)
        assert row is not None  # noqa: S101  # an INSERT of one row returns it
        return int(row[0])


async def rate_again(connection: Connection, orgs: Iterable[str], from_month: date) -> None:
    """Their months from one on are rated again by what is known now."""
    await connection.execute(
        "UPDATE org_months SET behind = true, adjust_due = true, credit_due = true "
        "WHERE org_id = ANY(%s::uuid[]) AND month >= %s",
        (sorted(set(orgs)), from_month),
    )
