"""What a look at the deployments reads."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from statistics import median

from crosslogic_common.postgres import Connection
from crosslogic_orchestrator.domain import Instance, Spec
from crosslogic_orchestrator.scaling.placement import Lived
from crosslogic_orchestrator.scaling.records import Attempts, Machine

FAILING_S = 600.0
"""So long a place is avoided where a launch failed."""
_LIVED_DAYS = 30
_HELD_AT_MOST_S = 60.0
_LAUNCHES = 20
"""So many of a deployment's last launches are looked at."""


async def alive_machines(connection: Connection) -> tuple[Machine, ...]:
    """Machines of deployments that are not ended."""
    cursor = await connection.execute(
        "SELECT id, model, provider, region, instance_type, use_spot, state, hourly_price_picodollars, job_id, "
        "created_at, deployment_id, replaces FROM instances WHERE deployment_id IS NOT NULL AND ended_at IS NULL "
        "ORDER BY created_at, id"
    )
    return tuple(
        Machine(
            str(row[10]),
            Instance(
                id=str(row[0]),
                spec=Spec(model=row[1], provider=row[2], region=row[3], instance_type=row[4], use_spot=row[5]),
                state=row[6],
                hourly_price_picodollars=row[7],
                job_id=str(row[8]),
                created_at=row[9],
                ended_at=None,
            ),
            str(row[11]) if row[11] else "",
        )
        for row in await cursor.fetchall()
    )


async def attempts_of(connection: Connection, *, now: datetime) -> Mapping[str, Attempts]:
    """How the last launches of each deployment went; those that were called off are not counted."""
    cursor = await connection.execute(
        "SELECT d.id, n.status, n.created_at, n.updated_at, n.place FROM deployments d CROSS JOIN LATERAL ("
        "SELECT j.status, j.created_at, j.updated_at, i.provider || '/' || i.region || '/' || "
        "coalesce(nullif(i.instance_type, ''), 'any') AS place "
        "FROM instances i JOIN jobs j ON j.instance_id = i.id AND j.kind = 'launch' AND j.status <> 'running' "
        "WHERE i.deployment_id = d.id "
        "AND NOT EXISTS (SELECT 1 FROM jobs e WHERE e.instance_id = i.id AND e.kind = 'terminate' "
        "AND j.status = 'failed') ORDER BY i.created_at DESC LIMIT %s) n WHERE d.ended_at IS NULL",
        (_LAUNCHES,),
    )
    rows: dict[str, list[tuple[str, datetime, datetime, str]]] = {}
    for row in await cursor.fetchall():
        rows.setdefault(str(row[0]), []).append((row[1], row[2], row[3], row[4]))
    return {name: _attempts(sorted(found, key=lambda each: each[2], reverse=True), now) for name, found in rows.items()}


def _attempts(newest_first: list[tuple[str, datetime, datetime, str]], now: datetime) -> Attempts:
    failed = [each for each in newest_first if each[0] == "failed"]
    in_a_row = next((number for number, each in enumerate(newest_first) if each[0] != "failed"), len(newest_first))
    took = [(ended - begun).total_seconds() for status, begun, ended, _ in newest_first if status == "succeeded"]
    return Attempts(
        failed_in_a_row=in_a_row,
        failed_at=failed[0][2] if failed else None,
        failing_places=frozenset(place for _, _, ended, place in failed if now - ended < timedelta(seconds=FAILING_S)),
        start_s=median(took) if took else None,
    )


async def lived_of(connection: Connection, *, now: datetime) -> Mapping[str, Lived]:
    """How long spot machines lived in the last days, and how many were taken, by place."""
    cursor = await connection.execute(
        "SELECT provider || '/' || region || '/' || coalesce(nullif(instance_type, ''), 'any'), "
        "sum(extract(epoch FROM coalesce(ended_at, %s) - created_at)) / 3600, "
        "count(*) FILTER (WHERE state = 'lost') "
        "FROM instances WHERE use_spot AND (ended_at IS NULL OR ended_at > %s) GROUP BY 1",
        (now, now - timedelta(days=_LIVED_DAYS)),
    )
    return {row[0]: Lived(float(row[1]), int(row[2])) for row in await cursor.fetchall()}


async def waiting_of(connection: Connection, *, now: datetime) -> Mapping[str, int]:
    """Requests that gateways hold. What somebody noted whose clock is far ahead does not hold for ever."""
    cursor = await connection.execute(
        "SELECT deployment_id, sum(waiting) FROM waiting_requests WHERE until BETWEEN %s AND %s GROUP BY 1",
        (now, now + timedelta(seconds=_HELD_AT_MOST_S)),
    )
    return {str(row[0]): int(row[1]) for row in await cursor.fetchall()}
