"""All SQL of the outbox."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import LiteralString

from psycopg.rows import TupleRow

from crosslogic_billing.export.domain import Hour, How, Lane, MeterEvent, State
from crosslogic_billing.export.policy import ADDED_UP
from crosslogic_common.postgres import Connection, Pool, transaction

EVENT_COLUMNS: LiteralString = (
    "id, identifier, org_id, customer_id, event_name, category, unit, month, window_start, revision, part, value, "
    "state, delivered_how, attempts, unknown_since, last_error, created_at, last_attempt_at, delivered_at"
)


def event_of(row: TupleRow) -> MeterEvent:
    """A row of `EVENT_COLUMNS`."""
    return MeterEvent(
        id=row[0],
        identifier=row[1],
        org_id=str(row[2]),
        customer_id=row[3],
        event_name=row[4],
        category=row[5],
        unit=row[6],
        month=row[7],
        window_start=row[8],
        revision=row[9],
        part=row[10],
        value=row[11],
        state=row[12],
        delivered_how=row[13],
        attempts=row[14],
        unknown_since=row[15],
        last_error=row[16],
        created_at=row[17],
        last_attempt_at=row[18],
        delivered_at=row[19],
    )


class PostgresOutbox:
    """The outbox in PostgreSQL. Implements ports.OutboxStore."""

    def __init__(self, pool: Pool, *, new_id: Callable[[], str]) -> None:
        """`new_id` makes UUIDs."""
        self._pool = pool
        self._new_id = new_id

    async def lease(self, now: datetime, until: datetime, limit: int) -> Sequence[Lane]:
        """See ports.OutboxStore. Lanes that others are looking at are passed over, not waited for."""
        lease_id = self._new_id()
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "UPDATE meter_lanes l SET lease_id = %s, leased_until = %s FROM ("
                "SELECT customer_id, event_name FROM meter_lanes c WHERE due_at <= %s "
                "AND (leased_until IS NULL OR leased_until < %s) AND EXISTS (SELECT FROM meter_events e "
                "WHERE e.state = 'pending' AND e.customer_id = c.customer_id AND e.event_name = c.event_name "
                "AND (e.due_at IS NULL OR e.due_at <= %s)) ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED) due "
                "WHERE l.customer_id = due.customer_id AND l.event_name = due.event_name "
                "RETURNING l.customer_id, l.event_name, l.lease_id, l.failures, coalesce((SELECT a.subscription_id "
                "FROM accounts a WHERE a.customer_id = l.customer_id), '')",
                (lease_id, until, now, now, now, limit),
            )
            return [Lane(row[0], row[1], str(row[2]), row[3], row[4]) for row in await found.fetchall()]

    async def begin(
        self, lane: Lane, now: datetime, until: datetime, *, past: Sequence[int] = (), newest: bool = False
    ) -> MeterEvent | None:
        """See ports.OutboxStore."""
        async with transaction(self._pool) as connection:
            held = await connection.execute(
                "UPDATE meter_lanes SET leased_until = %s WHERE customer_id = %s AND event_name = %s AND lease_id = %s",
                (until, lane.customer_id, lane.event_name, lane.lease_id),
            )
            if held.rowcount != 1:
                return None
            order: LiteralString = "DESC" if newest else "ASC"
            # Two reads, each along the index: one that sorts would read all of a lane for each of its events.
            for set_aside, due in ((False, "due_at IS NULL"), (True, "due_at <= %(now)s")):
                found = await connection.execute(
                    f"SELECT {EVENT_COLUMNS} FROM meter_events WHERE state = 'pending' "
                    "AND customer_id = %(customer)s AND event_name = %(name)s AND id <> ALL(%(past)s) "
                    f"AND {due} ORDER BY id {order} LIMIT 1 FOR UPDATE",
                    {"customer": lane.customer_id, "name": lane.event_name, "past": list(past), "now": now},
                )
                row = await found.fetchone()
                if row is not None:
                    event = event_of(row)
                    await self._attempt(connection, event, now)
                    return replace(event, attempts=event.attempts + 1, set_aside=set_aside)
        return None

    async def again(self, event: MeterEvent, now: datetime) -> MeterEvent:
        """See ports.OutboxStore."""
        async with transaction(self._pool) as connection:
            await connection.execute("UPDATE meter_events SET unknown_since = NULL WHERE id = %s", (event.id,))
            await self._attempt(connection, event, now)
        return replace(event, attempts=event.attempts + 1, unknown_since=None)

    @staticmethod
    async def _attempt(connection: Connection, event: MeterEvent, now: datetime) -> None:
        """Notes that it is about to be sent, before it is: from here on Stripe may have it."""
        await connection.execute(
            "UPDATE meter_events SET attempts = attempts + 1, last_attempt_at = %s, "
            "unknown_since = coalesce(unknown_since, %s) WHERE id = %s",
            (now, now, event.id),
        )

    async def delivered(self, event: MeterEvent, how: How, now: datetime) -> None:
        """See ports.OutboxStore."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE meter_events SET state = 'delivered', delivered_how = %s, delivered_at = %s, last_error = '' "
                "WHERE id = %s AND state <> 'delivered'",
                (how, now, event.id),
            )

    async def dead(self, event: MeterEvent, reason: str) -> None:
        """See ports.OutboxStore. What was unknown before the last attempt stays so."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE meter_events SET state = 'dead', last_error = %s, unknown_since = %s "
                "WHERE id = %s AND state = 'pending'",
                (reason, event.unknown_since, event.id),
            )

    async def failed(self, event: MeterEvent, reason: str, *, unknown: bool) -> None:
        """See ports.OutboxStore."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE meter_events SET last_error = %s, "
                "unknown_since = CASE WHEN %s THEN unknown_since ELSE %s END WHERE id = %s AND state = 'pending'",
                (reason, unknown, event.unknown_since, event.id),
            )

    async def set_aside(self, event: MeterEvent, until: datetime) -> None:
        """See ports.OutboxStore."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE meter_events SET due_at = %s WHERE id = %s AND state = 'pending'", (until, event.id)
            )

    async def release(self, lane: Lane, *, due_at: datetime, failures: int) -> None:
        """See ports.OutboxStore."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE meter_lanes SET lease_id = NULL, leased_until = NULL, due_at = %s, failures = %s "
                "WHERE customer_id = %s AND event_name = %s AND lease_id = %s",
                (due_at, failures, lane.customer_id, lane.event_name, lane.lease_id),
            )

    async def hour_of(self, event: MeterEvent, since: datetime, until: datetime, now: datetime) -> Hour:
        """See ports.OutboxStore."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT value, state = 'delivered' AND delivered_at < %s FROM meter_events WHERE customer_id = %s "
                "AND event_name = %s AND window_start >= %s AND window_start < %s AND id <> %s "
                "AND (state = 'delivered' OR unknown_since IS NOT NULL) ORDER BY id",
                (now - ADDED_UP, event.customer_id, event.event_name, since, until, event.id),
            )
            rows = [(int(value), bool(surely)) for value, surely in await found.fetchall()]
        return Hour(
            surely=sum(value for value, surely in rows if surely),
            perhaps=tuple(value for value, surely in rows if not surely),
        )

    async def counts(self, now: datetime) -> Mapping[str, float]:
        """See ports.OutboxStore."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'dead'), "
                "coalesce(extract(epoch FROM %s - min(created_at) FILTER (WHERE state = 'pending')), 0) "
                "FROM meter_events WHERE state IN ('pending', 'dead')",
                (now,),
            )
            row = await found.fetchone()
        assert row is not None  # noqa: S101  # an aggregate has a row
        return {"pending": float(row[0]), "dead": float(row[1]), "oldest_s": float(row[2])}

    async def listed(self, state: State | None, org_id: str, after: int, limit: int) -> list[MeterEvent]:
        """Events by age; of one state and one organisation where these are given."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                f"SELECT {EVENT_COLUMNS} FROM meter_events WHERE id > %s AND (%s::text IS NULL OR state = %s) "
                "AND (%s = '' OR org_id::text = %s) ORDER BY id LIMIT %s",
                (after, state, state, org_id, org_id, limit),
            )
            return [event_of(row) for row in await found.fetchall()]

    async def by_identifier(self, identifier: str) -> MeterEvent | None:
        """One event."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                f"SELECT {EVENT_COLUMNS} FROM meter_events WHERE identifier = %s", (identifier,)
            )
            row = await found.fetchone()
        return None if row is None else event_of(row)

    async def replay(self, event_id: int, now: datetime) -> MeterEvent | None:
        """A dead letter waits to be sent again. None: there is no such dead letter."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                f"UPDATE meter_events SET state = 'pending', due_at = NULL "
                f"WHERE id = %s AND state = 'dead' RETURNING {EVENT_COLUMNS}",
                (event_id,),
            )
            row = await found.fetchone()
            if row is None:
                return None
            event = event_of(row)
            await _due(connection, event, now)
        return event

    async def resolve(self, event_id: int, now: datetime) -> MeterEvent | None:
        """A dead letter was dealt with outside: it counts as delivered. None: there is no such dead letter."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "UPDATE meter_events SET state = 'delivered', delivered_how = 'by_hand', delivered_at = %s "
                f"WHERE id = %s AND state = 'dead' RETURNING {EVENT_COLUMNS}",
                (now, event_id),
            )
            row = await found.fetchone()
        return None if row is None else event_of(row)

    async def reported_dead(self, identifier: str, reason: str) -> bool:
        """Stripe took an event and has found later that it cannot count it. Whether it is one of ours."""
        async with transaction(self._pool) as connection:
            changed = await connection.execute(
                "UPDATE meter_events SET state = 'dead', delivered_how = NULL, delivered_at = NULL, "
                "unknown_since = NULL, last_error = %s WHERE identifier = %s AND state <> 'dead'",
                (reason, identifier),
            )
            return changed.rowcount > 0


async def _due(connection: Connection, event: MeterEvent, now: datetime) -> None:
    await connection.execute(
        "INSERT INTO meter_lanes AS l (customer_id, event_name, due_at) VALUES (%s, %s, %s) "
        "ON CONFLICT (customer_id, event_name) DO UPDATE SET due_at = least(l.due_at, excluded.due_at), failures = 0",
        (event.customer_id, event.event_name, now),
    )
