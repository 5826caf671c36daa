"""The last lines of what was said while a job was worked on, in PostgreSQL."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_orchestrator.domain import LogLine, Step, plain

KEPT_LINES = 100
"""Of one job. Whoever follows it is sent them with each change."""
MAX_LINE = 500
MAX_FOLLOWED = 200


@dataclass(frozen=True, slots=True)
class Followed:
    """A launch whose machine may log."""

    job_id: str
    node_id: str
    cursor: str
    """How far its node's log was read."""


async def add_lines(connection: Connection, job_id: str, lines: Sequence[LogLine]) -> None:
    """Adds to a job's log, in the caller's transaction. What has no text is left out; the oldest lines go."""
    said = [replace(line, text=plain(line.text)[:MAX_LINE]) for line in lines[-KEPT_LINES:]]
    rows = [(job_id, line.at, line.source, line.text) for line in said if line.text.strip()]
    if not rows:
        return
    async with connection.cursor() as cursor:
        await cursor.executemany("INSERT INTO job_log_lines (job_id, at, source, text) VALUES (%s, %s, %s, %s)", rows)
    await connection.execute(
        "DELETE FROM job_log_lines WHERE job_id = %s AND seq <= ("
        "SELECT seq FROM job_log_lines WHERE job_id = %s ORDER BY seq DESC OFFSET %s LIMIT 1)",
        (job_id, job_id, KEPT_LINES),
    )


async def lines_of(connection: Connection, job_id: str) -> tuple[LogLine, ...]:
    """A job's log, oldest line first, in the caller's transaction."""
    cursor = await connection.execute(
        "SELECT at, source, text FROM job_log_lines WHERE job_id = %s ORDER BY seq", (job_id,)
    )
    return tuple(LogLine(at=row[0], source=row[1], text=row[2]) for row in await cursor.fetchall())


class JobLogStore:
    """What machines that are launched log. Every method raises UNAVAILABLE while the database is away."""

    def __init__(self, pool: Pool, *, channel: str) -> None:
        """`channel` is told of jobs that changed."""
        self._pool = pool
        self._channel = channel

    async def followed(self) -> list[Followed]:
        """The launches under way that were asked for at their provider, oldest first."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT id, instance_id, log_cursor FROM jobs WHERE status = 'running' AND kind = 'launch' "
                "AND step >= %s ORDER BY created_at LIMIT %s",
                (Step.PROVISIONING, MAX_FOLLOWED),
            )
            return [Followed(str(row[0]), str(row[1]), row[2]) for row in await cursor.fetchall()]

    async def keep(self, of: Followed, lines: Sequence[LogLine], *, cursor: str, now: datetime) -> bool:
        """Adds what a node logged since `of.cursor`. False: another replica has."""
        async with transaction(self._pool) as connection:
            moved = await connection.execute(
                "UPDATE jobs SET log_cursor = %s, updated_at = %s WHERE id = %s AND log_cursor = %s",
                (cursor, now, of.job_id, of.cursor),
            )
            if moved.rowcount != 1:
                return False
            await add_lines(connection, of.job_id, lines)
            await connection.execute("SELECT pg_notify(%s, %s)", (self._channel, of.job_id))
            return True
