"""Keeps what identity told, and puts right what was closed before it was known.

One transaction a read does all of it, while nobody closes a window: what is known, what windows that were closed since
add to their months, and how far identity has been read change together or not at all.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta

from crosslogic_billing.accounts.store import terms_of, time_zone_of
from crosslogic_billing.rating import policy as rating
from crosslogic_billing.rating.domain import Priced, Terms
from crosslogic_billing.standings import store
from crosslogic_billing.standings.domain import Changes
from crosslogic_common.logs import get_logger
from crosslogic_common.postgres import Connection, Pool, transaction

_TIMEOUT_S = 120.0
_ONE_DAY = timedelta(days=1)
_LONGEST_WINDOW = timedelta(seconds=900)

_Window = tuple[datetime, int]
"""Start and length in seconds."""
_Used = dict[tuple[str, Priced], int]


class Learner:
    """Writes what the follower reads."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._log = get_logger(__name__)

    async def learn(self, changes: Changes, read_at: datetime) -> int:
        """Keeps what is new of the changes; how many there were. Twice, or by two replicas: once."""
        async with transaction(self._pool, timeout_s=_TIMEOUT_S) as connection:
            known = await store.read_at(connection, lock=True)
            if known is not None and known > read_at:
                return 0
            new = await store.unknown(connection, changes)
            if new.orgs or new.plans:
                await store.hold_standings_alone(connection)
                await self._keep(connection, new)
            await store.was_read(connection, read_at)
        return len(new.orgs) + len(new.plans)

    async def _keep(self, connection: Connection, new: Changes) -> None:
        since: dict[str, datetime] = {}
        for org in new.orgs:
            since[org.org_id] = min(org.from_time, since.get(org.org_id, org.from_time))
        for plan in new.plans:
            for org_id in await store.orgs_on(connection, [plan.plan]):
                since[org_id] = min(plan.from_time, since.get(org_id, plan.from_time))
        closed = {org_id: await _closed(connection, org_id, moment) for org_id, moment in since.items()}
        before = {
            (org_id, month): await terms_of(connection, org_id, month)
            for org_id, months in closed.items()
            for month in months
        }
        await store.add(connection, new)
        for (org_id, month), old in before.items():
            now = await terms_of(connection, org_id, month)
            await _rate_windows_again(connection, org_id, month, old, now, closed[org_id][month])
            self._log.info("windows rated again by what identity says", org_id=org_id, month=str(month))
        for org_id, moment in since.items():
            await store.rate_again(connection, [org_id], (moment - _ONE_DAY).date().replace(day=1))


async def _closed(connection: Connection, org_id: str, since: datetime) -> dict[date, dict[_Window, _Used]]:
    """What was closed of an organisation's windows that ended after then, by month."""
    found = await connection.execute(
        "SELECT window_start, length_s, model, category, price, accounted FROM window_usage "
        "WHERE org_id = %s AND window_start > %s AND window_start + make_interval(secs => length_s) > %s "
        "AND accounted <> 0",
        (org_id, since - _LONGEST_WINDOW, since),
    )
    rows = await found.fetchall()
    if not rows:
        return {}
    zone = await time_zone_of(connection, org_id)
    months: dict[date, dict[_Window, _Used]] = {}
    for start, length_s, model, category, price, accounted in rows:
        windows = months.setdefault(rating.month_of(start, zone), {})
        windows.setdefault((start, length_s), {})[model, Priced(category, price)] = accounted
    return months


async def _rate_windows_again(
    connection: Connection, org_id: str, month: date, old: Terms, now: Terms, windows: Mapping[_Window, _Used]
) -> None:
    parts = []
    for (start, length_s), used in windows.items():
        parts.append(rating.billable(now, start, length_s, used))
        taken_off = rating.billable(old, start, length_s, used)
        parts.append({bucket: -tokens for bucket, tokens in taken_off.items()})
    for bucket, tokens in sorted(rating.merged(parts).items()):
        await connection.execute(
            "UPDATE month_usage SET tokens = tokens + %s "
            "WHERE org_id = %s AND month = %s AND category = %s AND price = %s",
            (tokens, org_id, month, bucket.category, bucket.price_picodollars),
        )
