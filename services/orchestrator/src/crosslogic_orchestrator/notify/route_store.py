"""Routes in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime

from psycopg.types.json import Jsonb

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_orchestrator.notify.domain import Route
from crosslogic_orchestrator.notify.records import ROUTE, quiet_json, route_of

MAX_ROUTES_OF_ORG = 20
MAX_ROUTES_OF_OPERATORS = 100
MAX_ROUTES = 10_000


class RouteStore:
    """Every method raises UNAVAILABLE while the database is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, route: Route, sealed: bytes, *, request_id: str) -> tuple[Route, bool]:
        """Keeps a new route. With a `request_id` that is known: the route of then, and False.

        Raises OVERLOADED, and CONFLICT where it was somebody else's or for another route.
        """
        async with transaction(self._pool) as connection:
            # One at a time, or the bounds would be counted by each before the other's route is there.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('fleet.notify_routes'))")
            if request_id:
                cursor = await connection.execute(
                    f"SELECT {ROUTE} FROM notify_routes r WHERE r.request_id = %s", (request_id,)
                )
                row = await cursor.fetchone()
                if row is not None:
                    return _the_same(route_of(row), route), False
            await _check_room(connection, route.org_id)
            await connection.execute(
                "INSERT INTO notify_routes (id, request_id, org_id, channel, created_at, name, shown_target, sealed, "
                "kinds, min_severity, quiet, gather_s, enabled, updated_at) "
                "VALUES (%s, nullif(%s, '')::uuid, nullif(%s, '')::uuid, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (route.id, request_id, route.org_id, route.channel, route.created_at, *_changeable(route, sealed)),
            )
        return route, True

    async def route(self, route_id: str) -> tuple[Route, bytes]:
        """A route and what is sealed of it. Raises NOT_FOUND."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {ROUTE}, r.sealed FROM notify_routes r WHERE r.id = %s AND r.ended_at IS NULL", (route_id,)
            )
            row = await cursor.fetchone()
        if row is None:
            raise _no_such_route()
        return route_of(row[:-1]), bytes(row[-1])

    async def routes(self, *, org_id: str, after: str, limit: int) -> list[Route]:
        """Oldest first; `org_id` empty: everybody's."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {ROUTE} FROM notify_routes r WHERE r.ended_at IS NULL AND r.id > %s "
                "AND (%s = '' OR r.org_id = nullif(%s, '')::uuid) ORDER BY r.id LIMIT %s",
                (after, org_id, org_id, limit),
            )
            return [route_of(row) for row in await cursor.fetchall()]

    async def update(self, route: Route, sealed: bytes, *, revision: int) -> Route:
        """Replaces what it asks for. Raises NOT_FOUND, CONFLICT (it is at another revision)."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE notify_routes r SET name = %s, shown_target = %s, sealed = %s, kinds = %s, min_severity = %s, "
                "quiet = %s, gather_s = %s, enabled = %s, revision = revision + 1, updated_at = %s "
                f"WHERE r.id = %s AND r.ended_at IS NULL AND r.revision = %s RETURNING {ROUTE}",
                (*_changeable(route, sealed), route.id, revision),
            )
            row = await cursor.fetchone()
            if row is None:
                raise CodedError(ErrorCode.CONFLICT, "The route was changed by somebody else.", param="revision")
            if not route.enabled:
                await _drop_waiting(connection, route.id, "The route was disabled.", now=route.updated_at)
            return route_of(row)

    async def end(self, route_id: str, *, now: datetime) -> None:
        """Ends a route, and what is sealed of it with it. Raises NOT_FOUND where there never was one."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE notify_routes SET ended_at = coalesce(ended_at, %s), enabled = false, sealed = '' "
                "WHERE id = %s",
                (now, route_id),
            )
            if cursor.rowcount == 0:
                raise _no_such_route()
            await _drop_waiting(connection, route_id, "The route was ended.", now=now)


async def enabled_routes(connection: Connection, org_ids: Sequence[str]) -> list[Route]:
    """The operators' routes and those of some organisations, in the caller's transaction.

    They stay as they are until its end: a route that is disabled meanwhile waits, and then drops what was added.
    """
    cursor = await connection.execute(
        f"SELECT {ROUTE} FROM notify_routes r WHERE r.enabled AND r.ended_at IS NULL "
        "AND (r.org_id IS NULL OR r.org_id = ANY(%s::uuid[])) ORDER BY r.id FOR SHARE",
        (list(org_ids),),
    )
    return [route_of(row) for row in await cursor.fetchall()]


def _the_same(known: Route, asked: Route) -> Route:
    """The route that a request made. One that was changed since is still the one."""
    changed = known.revision > 1
    if (known.org_id, known.channel) != (asked.org_id, asked.channel) or not (changed or _told(known) == _told(asked)):
        raise CodedError(ErrorCode.CONFLICT, "`request_id` was used for another route.", param="request_id")
    return known


def _told(route: Route) -> tuple[object, ...]:
    return route.name, route.shown_target, route.kinds, route.min_severity, route.quiet, route.gather_s, route.enabled


async def _check_room(connection: Connection, org_id: str) -> None:
    cursor = await connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE org_id IS NOT DISTINCT FROM nullif(%s, '')::uuid) "
        "FROM notify_routes WHERE ended_at IS NULL",
        (org_id,),
    )
    row = await cursor.fetchone()
    everybodys, own = (0, 0) if row is None else (int(row[0]), int(row[1]))
    most = MAX_ROUTES_OF_ORG if org_id else MAX_ROUTES_OF_OPERATORS
    if own >= most or everybodys >= MAX_ROUTES:
        raise CodedError(ErrorCode.OVERLOADED, f"There are {own} routes already: end one that is not needed.")


async def _drop_waiting(connection: Connection, route_id: str, why: str, *, now: datetime) -> None:
    await connection.execute(
        "UPDATE notify_deliveries SET state = 'dropped', last_error = %s, ended_at = %s, leased_until = NULL, "
        "epoch = epoch + 1 WHERE route_id = %s AND state = 'pending'",
        (why, now, route_id),
    )


def _changeable(route: Route, sealed: bytes) -> tuple[object, ...]:
    """The values from `name` to `updated_at`, in the order of both statements that write them."""
    return (
        route.name,
        route.shown_target,
        sealed,
        list(route.kinds),
        int(route.min_severity),
        _quiet(route),
        route.gather_s,
        route.enabled,
        route.updated_at,
    )


def _quiet(route: Route) -> Jsonb | None:
    kept = quiet_json(route.quiet)
    return None if kept is None else Jsonb(kept)


def _no_such_route() -> CodedError:
    return CodedError(ErrorCode.NOT_FOUND, "There is no such route.")
