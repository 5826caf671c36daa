"""What happened, for whoever tells people of it: only ever added to."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from crosslogic_common.postgres import Connection, Pool, transaction

_LATEST: Final = 1_000
"""So many events are looked at for one that was told before."""


async def add_event(
    connection: Connection,
    *,
    kind: str,
    at: datetime,
    text: str,
    details: Mapping[str, Any],
    deployment_id: str = "",
    instance_id: str = "",
    org_id: str = "",
) -> None:
    """Notes what happened, in the caller's transaction. `org_id`: whose business it is; empty: the operators'."""
    await _alone(connection)
    await connection.execute(
        "INSERT INTO events (kind, org_id, deployment_id, instance_id, at, text, details) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (kind, org_id or None, deployment_id or None, instance_id or None, at, text, json.dumps(details)),
    )


async def add_machine_event(
    connection: Connection,
    *,
    kind: str,
    instance_id: str,
    at: datetime,
    text: str,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Notes what happened to a machine, as of the deployment that it belongs to, in the caller's transaction."""
    cursor = await connection.execute("SELECT deployment_id FROM instances WHERE id = %s", (instance_id,))
    row = await cursor.fetchone()
    await add_event(
        connection,
        kind=kind,
        at=at,
        text=text,
        details=details or {},
        deployment_id=str(row[0]) if row is not None and row[0] else "",
        instance_id=instance_id,
    )


class FleetEvents:
    """Events of the fleet as a whole, in transactions of their own."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def tell_once(self, *, kind: str, at: datetime, within_s: float, text: str) -> bool:
        """Notes what happened, unless the same kind was noted less than `within_s` ago: every replica may ask.

        Raises UNAVAILABLE.
        """
        async with transaction(self._pool) as connection:
            await _alone(connection)
            cursor = await connection.execute(
                "SELECT 1 FROM (SELECT kind, at FROM events ORDER BY seq DESC LIMIT %s) latest "
                "WHERE kind = %s AND at > %s",
                (_LATEST, kind, at - timedelta(seconds=within_s)),
            )
            if await cursor.fetchone() is not None:
                return False
            await add_event(connection, kind=kind, at=at, text=text, details={})
            return True


async def _alone(connection: Connection) -> None:
    """One writer at a time, to the end of its transaction: a reader of the order would else miss who commits late."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('fleet.events'))")
