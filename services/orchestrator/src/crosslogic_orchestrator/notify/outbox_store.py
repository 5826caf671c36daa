"""Events and deliveries in PostgreSQL."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import LiteralString

from psycopg.types.json import Jsonb

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_orchestrator.events import add_event
from crosslogic_orchestrator.notify import policy
from crosslogic_orchestrator.notify.domain import DEAD_KIND, Claimed, Delivery, Event, Message, Route
from crosslogic_orchestrator.notify.payloads import SHOWN_EVENTS
from crosslogic_orchestrator.notify.records import DELIVERY, EVENT, ROUTE, delivery_of, event_of, route_of
from crosslogic_orchestrator.notify.route_store import enabled_routes

_FORGET_AT_ONCE = 5_000

# One attempt at a time for a route and for an organisation: who answers slowly keeps nobody else waiting.
_CLAIM: LiteralString = """
WITH next AS (
    SELECT d.id FROM notify_deliveries d
    WHERE d.state = 'pending' AND d.due_at <= %(now)s AND (d.leased_until IS NULL OR d.leased_until <= %(now)s)
      AND (d.org_id IS NULL OR NOT %(operators_only)s)
      AND NOT EXISTS (
          SELECT FROM notify_deliveries o WHERE o.state = 'pending' AND o.leased_until > %(now)s
          AND (o.route_id = d.route_id OR o.org_id = d.org_id))
    ORDER BY d.due_at, d.id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE notify_deliveries d SET leased_until = %(until)s, epoch = d.epoch + 1, attempts = d.attempts + 1
FROM next, notify_routes r WHERE d.id = next.id AND r.id = d.route_id
"""


class OutboxStore:
    """Every method raises UNAVAILABLE while the database is away."""

    def __init__(self, pool: Pool, *, ids: Uuid7Source) -> None:
        self._pool = pool
        self._ids = ids

    # Taking up what happened.

    async def cursor(self, source: str) -> int:
        """How far a source was read."""
        async with transaction(self._pool) as connection:
            found = await connection.execute("SELECT after FROM notify_cursors WHERE source = %s", (source,))
            row = await found.fetchone()
            if row is None:
                await connection.execute("INSERT INTO notify_cursors VALUES (%s, 0) ON CONFLICT DO NOTHING", (source,))
            return 0 if row is None else int(row[0])

    async def take(self, source: str, events: Sequence[Event], *, after: int, reached: int, now: datetime) -> bool:
        """Takes events up, moves the cursor from `after` to `reached`, and plans what is to be sent: all or nothing.

        False: somebody else has moved the cursor.
        """
        async with transaction(self._pool) as connection:
            moved = await connection.execute(
                "UPDATE notify_cursors SET after = %s WHERE source = %s AND after = %s", (reached, source, after)
            )
            if moved.rowcount == 0:
                return False
            routes = await enabled_routes(connection, sorted({event.org_id for event in events if event.org_id}))
            fresh = [event for event in events if await self._add(connection, event, now)]
            for route in routes:
                for kind, wanted in _by_kind(event for event in fresh if policy.wants(route, event)).items():
                    await self._plan(connection, route, kind, wanted, now)
        return True

    async def _add(self, connection: Connection, event: Event, now: datetime) -> bool:
        """False: it was taken up before."""
        cursor = await connection.execute(
            "INSERT INTO notify_events (id, key, kind, severity, org_id, at, title, text, details, taken_at) "
            "VALUES (%s, %s, %s, %s, nullif(%s, '')::uuid, %s, %s, %s, %s, %s) ON CONFLICT (key) DO NOTHING",
            (
                self._ids.next_text(),
                event.key,
                event.kind,
                int(event.severity),
                event.org_id,
                event.at,
                event.title,
                event.text,
                Jsonb(dict(event.details)),
                now,
            ),
        )
        return cursor.rowcount == 1

    async def _plan(
        self, connection: Connection, route: Route, kind: str, events: Sequence[Event], now: datetime
    ) -> None:
        """Adds events of a kind to the message that gathers them, or begins one."""
        cursor = await connection.execute(
            "SELECT id, count FROM notify_deliveries WHERE route_id = %s AND kind = %s "
            "AND state = 'pending' AND epoch = 0 FOR UPDATE",
            (route.id, kind),
        )
        waiting = await cursor.fetchone()
        delivery_id, before = ("", 0) if waiting is None else (str(waiting[0]), int(waiting[1]))
        severity = max(event.severity for event in events)
        last, failing = await _history(connection, route, kind, delivery_id)
        due = policy.due_at(route, severity, now=now, last=last, failing=failing)
        if delivery_id:
            await connection.execute(
                "UPDATE notify_deliveries SET count = count + %s, severity = greatest(severity, %s), "
                "planned_at = least(planned_at, %s), due_at = least(due_at, %s) WHERE id = %s",
                (len(events), int(severity), due, due, delivery_id),
            )
        else:
            delivery_id = self._ids.next_text()
            await connection.execute(
                "INSERT INTO notify_deliveries (id, route_id, org_id, kind, severity, count, state, planned_at, "
                "due_at, created_at) VALUES (%s, %s, nullif(%s, '')::uuid, %s, %s, %s, 'pending', %s, %s, %s)",
                (delivery_id, route.id, route.org_id, kind, int(severity), len(events), due, due, now),
            )
        # Only those that are shown are kept with it; the others are counted.
        shown = [event.key for event in events[: max(SHOWN_EVENTS - before, 0)]]
        await connection.execute(
            "INSERT INTO notify_delivery_events (delivery_id, event_id) "
            "SELECT %s, id FROM notify_events WHERE key = ANY(%s)",
            (delivery_id, shown),
        )

    # Sending.

    async def claim(self, *, now: datetime, lease_s: float, operators_only: bool = False) -> Claimed | None:
        """The delivery that waits longest, held for `lease_s`. None: there is none to try now."""
        async with transaction(self._pool) as connection:
            # One at a time: two at once would each overlook what the other takes of the same route.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('fleet.notify_claim'))")
            cursor = await connection.execute(
                f"{_CLAIM} RETURNING d.epoch, r.sealed, {DELIVERY}, {ROUTE}",
                {"now": now, "until": now + timedelta(seconds=lease_s), "operators_only": operators_only},
            )
            row = await cursor.fetchone()
            if row is None:
                return None
            delivery, route = delivery_of(row[2:14]), route_of(row[14:])
            cursor = await connection.execute(
                f"SELECT {EVENT} FROM notify_delivery_events m JOIN notify_events e ON e.id = m.event_id "
                "WHERE m.delivery_id = %s ORDER BY m.event_id LIMIT %s",
                (delivery.id, SHOWN_EVENTS),
            )
            events = tuple(event_of(each) for each in await cursor.fetchall())
        message = Message(
            delivery_id=delivery.id,
            kind=delivery.kind,
            severity=delivery.severity,
            at=delivery.created_at,
            count=delivery.count,
            events=events,
        )
        return Claimed(message=message, route=route, sealed=bytes(row[1]), epoch=row[0], attempt=delivery.attempts)

    async def sent(self, claimed: Claimed, *, now: datetime) -> bool:
        """The receiver has it. False: somebody else has taken the delivery over, or it was dropped."""
        return await self._end(claimed, "sent", "", now)

    async def died(self, claimed: Claimed, reason: str, *, now: datetime) -> bool:
        """It is given up, and whose it is are told on their other routes. False: as for `sent`."""
        return await self._end(claimed, "dead", reason, now)

    async def failed(self, claimed: Claimed, reason: str, *, due_at: datetime) -> bool:
        """It is tried again. False: as for `sent`."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE notify_deliveries SET due_at = %s, leased_until = NULL, last_error = %s "
                "WHERE id = %s AND epoch = %s AND state = 'pending'",
                (due_at, reason, claimed.message.delivery_id, claimed.epoch),
            )
            return cursor.rowcount == 1

    async def postponed(self, claimed: Claimed, *, due_at: datetime) -> bool:
        """It is to be tried later and was not tried now. False: as for `sent`."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE notify_deliveries SET due_at = %s, leased_until = NULL, attempts = attempts - 1 "
                "WHERE id = %s AND epoch = %s AND state = 'pending'",
                (due_at, claimed.message.delivery_id, claimed.epoch),
            )
            return cursor.rowcount == 1

    async def _end(self, claimed: Claimed, state: str, reason: str, now: datetime) -> bool:
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE notify_deliveries SET state = %s, last_error = %s, ended_at = %s, leased_until = NULL "
                "WHERE id = %s AND epoch = %s AND state = 'pending'",
                (state, reason, now, claimed.message.delivery_id, claimed.epoch),
            )
            if cursor.rowcount != 1:
                return False
            if state == "dead" and claimed.message.kind != DEAD_KIND:
                await _note_dead(connection, claimed, reason, now)
            return True

    # What people look at.

    async def delivery(self, delivery_id: str) -> Delivery:
        """One. Raises NOT_FOUND."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {DELIVERY} FROM notify_deliveries d WHERE d.id = %s", (delivery_id,)
            )
            row = await cursor.fetchone()
        if row is None:
            raise _no_such_delivery()
        return delivery_of(row)

    async def deliveries(self, *, org_id: str, route_id: str, state: str, before: str, limit: int) -> list[Delivery]:
        """Newest first, older than `before`; what is empty does not restrict."""
        values = {"org": org_id, "route": route_id, "state": state, "before": before, "limit": limit}
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {DELIVERY} FROM notify_deliveries d WHERE "
                "(%(before)s = '' OR d.id < nullif(%(before)s, '')::uuid) "
                "AND (%(org)s = '' OR d.org_id = nullif(%(org)s, '')::uuid) "
                "AND (%(route)s = '' OR d.route_id = nullif(%(route)s, '')::uuid) "
                "AND (%(state)s = '' OR d.state = %(state)s) ORDER BY d.id DESC LIMIT %(limit)s",
                values,
            )
            return [delivery_of(row) for row in await cursor.fetchall()]

    async def replay(self, delivery_id: str, *, now: datetime) -> Delivery:
        """Sends a dead letter again, from its first attempt on. Raises NOT_FOUND, CONFLICT."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE notify_deliveries d SET state = 'pending', due_at = %s, attempts = 0, ended_at = NULL, "
                "epoch = d.epoch + 1 FROM notify_routes r WHERE d.id = %s AND d.state = 'dead' AND r.id = d.route_id "
                f"AND r.enabled AND r.ended_at IS NULL RETURNING {DELIVERY}",
                (now, delivery_id),
            )
            row = await cursor.fetchone()
            if row is not None:
                return delivery_of(row)
        if (await self.delivery(delivery_id)).state == "dead":
            raise CodedError(ErrorCode.CONFLICT, "Its route is gone or disabled.")
        raise CodedError(ErrorCode.CONFLICT, "Only a dead letter can be sent again.")

    async def dead(self) -> Mapping[str, int]:
        """How many dead letters there are: `operators` and `organisations`."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT org_id IS NULL, count(*) FROM notify_deliveries WHERE state = 'dead' GROUP BY 1"
            )
            found = {bool(row[0]): int(row[1]) for row in await cursor.fetchall()}
        return {"operators": found.get(True, 0), "organisations": found.get(False, 0)}

    async def behind_s(self, *, now: datetime) -> Mapping[str, float]:
        """For how long what is due has waited at most: of `operators` and `organisations`."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT org_id IS NULL, min(due_at) FROM notify_deliveries "
                "WHERE state = 'pending' AND due_at <= %s GROUP BY 1",
                (now,),
            )
            found = {bool(row[0]): (now - row[1]).total_seconds() for row in await cursor.fetchall()}
        return {"operators": found.get(True, 0.0), "organisations": found.get(False, 0.0)}

    async def forget(self, before: datetime) -> int:
        """Removes a number of what ended before, and the events that nothing waits for. How many rows."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "WITH old AS (SELECT id FROM notify_deliveries WHERE state <> 'pending' AND ended_at < %(before)s "
                "LIMIT %(most)s), "
                "members AS (DELETE FROM notify_delivery_events m USING old WHERE m.delivery_id = old.id) "
                "SELECT array_agg(id) FROM old",
                {"before": before, "most": _FORGET_AT_ONCE},
            )
            row = await cursor.fetchone()
            ids = [] if row is None or row[0] is None else list(row[0])
            await connection.execute("DELETE FROM notify_deliveries WHERE id = ANY(%s)", (ids,))
            cursor = await connection.execute(
                "DELETE FROM notify_events WHERE id IN (SELECT e.id FROM notify_events e WHERE e.taken_at < %s "
                "AND NOT EXISTS (SELECT FROM notify_delivery_events m WHERE m.event_id = e.id) LIMIT %s)",
                (before, _FORGET_AT_ONCE),
            )
            return len(ids) + cursor.rowcount


async def _history(connection: Connection, route: Route, kind: str, except_id: str) -> tuple[datetime | None, bool]:
    """When the last message of a kind was to be sent on a route, other than the one that gathers; whether one fails."""
    cursor = await connection.execute(
        "SELECT (SELECT planned_at FROM notify_deliveries WHERE route_id = %(route)s AND kind = %(kind)s "
        "AND id::text <> %(except)s ORDER BY planned_at DESC LIMIT 1), "
        "EXISTS (SELECT FROM notify_deliveries WHERE route_id = %(route)s AND kind = %(kind)s "
        "AND state = 'pending' AND attempts > 0)",
        {"route": route.id, "kind": kind, "except": except_id},
    )
    row = await cursor.fetchone()
    return (None, False) if row is None else (row[0], bool(row[1]))


async def _note_dead(connection: Connection, claimed: Claimed, reason: str, now: datetime) -> None:
    route, message = claimed.route, claimed.message
    events = f"{message.count} events" if message.count > 1 else "an event"
    await add_event(
        connection,
        kind=DEAD_KIND,
        at=now,
        text=f"A message on the route {route.name} about {events} of {message.kind} was given up: {reason}",
        details={"route_id": route.id, "delivery_id": message.delivery_id, "kind": message.kind},
        org_id=route.org_id,
    )


def _by_kind(events: Iterable[Event]) -> Mapping[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(event.kind, []).append(event)
    return found


def _no_such_delivery() -> CodedError:
    return CodedError(ErrorCode.NOT_FOUND, "There is no such delivery.")
