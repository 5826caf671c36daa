"""What follows when rows of the ledger are settled: holds end, budgets are spent, money is posted. One transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from crosslogic_accountant.budgets.spend_store import add_spend, take_back
from crosslogic_accountant.money.domain import HoldState
from crosslogic_accountant.money.hold_store import StoredHold, end_holds, stored_hold
from crosslogic_accountant.money.store import charge_usage, lock_balances
from crosslogic_accountant.rollups.store import Rolled
from crosslogic_common.postgres import Connection

# The first row of a request ends its hold, whatever is corrected later.
_ENDED = """
    WITH ended AS (
        DELETE FROM open_holds o USING usage_records u
        WHERE u.batch = ANY(%s) AND u.request_id = o.hold_id AND u.revision = 0
          AND u.org_id = (SELECT h.org_id FROM holds h WHERE h.id = o.hold_id)
        RETURNING o.hold_id, o.posted_picodollars, u.cost_picodollars
    )
    SELECT h.id, h.org_id, h.environment_id, h.api_key_id, h.amount_picodollars, h.prepaid, h.free_picodollars,
           h.prepaid_picodollars, NULL, NULL, e.posted_picodollars, e.cost_picodollars
    FROM ended e JOIN holds h ON h.id = e.hold_id ORDER BY h.id
"""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A hold whose request has its record."""

    stored: StoredHold
    spent: int
    pending: bool
    """It was held until now; otherwise it had been ended by hand with what was spent."""


async def settle(connection: Connection, rolled: Rolled) -> None:
    """Settles rows of the ledger, each once: the caller moves the cursor in the same transaction."""
    costs: dict[UUID, int] = {}
    for delta in rolled.deltas:
        costs[delta.org_id] = costs.get(delta.org_id, 0) + delta.cost_picodollars
    ended = await _ended(connection, rolled.batches)
    released = await take_back(connection, [each.stored.hold.id for each in ended]) if ended else {}
    await add_spend(connection, rolled.deltas, released)
    for each in ended:
        if each.stored.hold.prepaid:
            costs[each.stored.hold.org_id] -= each.spent
    pending = [each for each in ended if each.pending]
    if pending:
        await lock_balances(connection, costs)
        await end_holds(
            connection,
            [(each.stored, each.spent, HoldState.POSTED if each.spent else HoldState.VOID) for each in pending],
            lock=False,
        )
    await charge_usage(connection, costs, after=rolled.after, reached=rolled.reached)


async def _ended(connection: Connection, batches: Sequence[int]) -> list[_Ended]:
    """The holds that these rows end."""
    cursor = await connection.execute("SELECT EXISTS (SELECT FROM open_holds)")
    row = await cursor.fetchone()
    if row is None or not row[0]:
        return []
    ended: list[_Ended] = []
    cursor = await connection.execute(_ENDED, (list(batches),))
    for *columns, posted, cost in await cursor.fetchall():
        stored = stored_hold(tuple(columns))
        spent = min(int(cost), stored.hold.amount_picodollars) if posted is None else int(posted)
        ended.append(_Ended(stored, spent, posted is None))
    return ended
