"""How plans and organisations changed, as far as money needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from crosslogic_common.postgres import Pool, transaction
from crosslogic_identity.domain import BillingMode, OveragePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class TermChange:
    """What has been so from a time on: of an organisation its plan and capacity, of a plan its mode and overage."""

    id: int
    from_time: datetime
    org_id: str
    """Empty: of the plan itself."""
    plan: str
    reserved_capacity: tuple[tuple[str, int], ...] = ()
    billing_mode: BillingMode | None = None
    overage_policy: OveragePolicy | None = None


class PostgresTermChanges:
    """All SQL of it. Triggers write what is read here."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, *, since: datetime | None, after: int, limit: int) -> Sequence[TermChange]:
        """Changes of `since` (None: of any time) and later with greater numbers than `after`, by number."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT id, from_time, org_id, plan, reserved_capacity, billing_mode, overage_policy "
                "FROM term_changes WHERE id > %s AND (%s::timestamptz IS NULL OR from_time >= %s) "
                "ORDER BY id LIMIT %s",
                (after, since, since, limit),
            )
            rows = await found.fetchall()
        return [
            TermChange(
                id=row[0],
                from_time=row[1],
                org_id="" if row[2] is None else str(row[2]),
                plan=row[3],
                reserved_capacity=tuple(sorted((row[4] or {}).items())),
                billing_mode=row[5],
                overage_policy=row[6],
            )
            for row in rows
        ]
