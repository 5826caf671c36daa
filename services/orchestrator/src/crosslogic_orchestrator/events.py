"""What happened, for whoever tells people of it: only ever added to."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from crosslogic_common.postgres import Connection


async def add_event(
    connection: Connection,
    *,
    kind: str,
    at: datetime,
    text: str,
    details: Mapping[str, Any],
    deployment_id: str = "",
    instance_id: str = "",
) -> None:
    """Notes what happened, in the caller's transaction."""
    # One writer at a time, to the end of its transaction: a reader of the order would else miss who commits late.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('fleet.events'))")
    await connection.execute(
        "INSERT INTO events (kind, deployment_id, instance_id, at, text, details) VALUES (%s, %s, %s, %s, %s, %s)",
        (kind, deployment_id or None, instance_id or None, at, text, json.dumps(details)),
    )
