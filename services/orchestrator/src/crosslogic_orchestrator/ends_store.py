"""Ends that do not come about, and machines that are given up, in PostgreSQL."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, LiteralString

from psycopg import errors
from psycopg.rows import TupleRow

from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_orchestrator.domain import Job, LateEnd, LogLine, Step
from crosslogic_orchestrator.events import add_machine_event
from crosslogic_orchestrator.job_log import add_lines
from crosslogic_orchestrator.store import CHANNEL, insert_end, lock_instance

NOT_ENDED: Final = "machine_not_ended"
ABANDONED: Final = "machine_abandoned"
MOST_TOLD: Final = 100
"""Of one look. The others are told of at the next."""

# Since when nothing but the machine's end is waited for; a launch that fails is set to the time when it began to.
_SINCE: LiteralString = (
    f"j.step_at + make_interval(secs => CASE WHEN j.kind = 'terminate' AND j.step = {int(Step.DRAINING)} "
    "THEN j.drain_timeout_s ELSE 0 END)"
)
_LATE: LiteralString = (
    "jobs j JOIN instances i ON i.id = j.instance_id WHERE j.status = 'running' AND i.ended_at IS NULL "
    f"AND (j.kind = 'terminate' OR j.error <> '') AND {_SINCE} < now() - make_interval(secs => %s)"
)


class EndsStore:
    """See ports.Ends."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def alive(self) -> Mapping[str, int]:
        """See ports.Ends."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT provider, count(*) FROM instances WHERE ended_at IS NULL GROUP BY provider"
            )
            return {row[0]: row[1] for row in await cursor.fetchall()}

    async def late(self, *, late_s: float) -> Mapping[str, int]:
        """See ports.Ends."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT i.provider, count(*) FROM {_LATE} GROUP BY i.provider", (late_s,)
            )
            return {row[0]: row[1] for row in await cursor.fetchall()}

    async def untold(self, *, late_s: float) -> list[LateEnd]:
        """See ports.Ends."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT i.id, i.provider, i.region, i.model, {_SINCE}, "
                "coalesce((SELECT s.detail FROM job_steps s WHERE s.job_id = j.id AND s.step = j.step), '') "
                # Its kind is no parameter, or the index of just these would not be used.
                f"FROM {_LATE} AND NOT EXISTS "
                f"(SELECT 1 FROM events e WHERE e.kind = '{NOT_ENDED}' AND e.instance_id = i.id) "
                f"ORDER BY {_SINCE} LIMIT %s",
                (late_s, MOST_TOLD),
            )
            return [LateEnd(str(row[0]), *row[1:]) for row in await cursor.fetchall()]

    async def tell(self, end: LateEnd, text: str, *, now: datetime) -> bool:
        """See ports.Ends."""
        details = {
            "provider": end.provider,
            "region": end.region,
            "model": end.model,
            "since": end.since.isoformat(),
            "last_words": end.words,
        }
        try:
            async with transaction(self._pool) as connection:
                await add_machine_event(
                    connection, kind=NOT_ENDED, instance_id=end.instance_id, at=now, text=text, details=details
                )
        except errors.UniqueViolation:
            return False
        return True

    async def end_of(self, instance_id: str) -> str:
        """See ports.Ends."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT id FROM jobs WHERE instance_id = %s AND kind = 'terminate'", (instance_id,)
            )
            row = await cursor.fetchone()
            return "" if row is None else str(row[0])

    async def abandon(self, job: Job, words: str, *, now: datetime) -> str:
        """See ports.Ends."""
        instance = job.instance
        async with transaction(self._pool) as connection:
            row = await _locked(connection, instance.id)
            if row is None:
                await insert_end(connection, job)
            elif row[1] != "running":
                return str(row[0])
            end_id = job.id if row is None else str(row[0])
            # Whoever works on it now is too late: the epoch refuses what they still write.
            await connection.execute(
                "UPDATE jobs SET status = 'failed', error = %s, lease_epoch = lease_epoch + 1, "
                "lease_until = '-infinity', updated_at = %s WHERE id = %s",
                (words, now, end_id),
            )
            await connection.execute(
                "UPDATE job_steps SET ended_at = %s, detail = %s WHERE job_id = %s AND ended_at IS NULL",
                (now, words, end_id),
            )
            await connection.execute(
                "UPDATE instances SET state = 'terminated', ended_at = %s WHERE id = %s AND ended_at IS NULL",
                (now, instance.id),
            )
            await add_lines(connection, end_id, [LogLine(at=now, source="orchestrator", text=words)])
            details = {"provider": instance.spec.provider, "region": instance.spec.region}
            await add_machine_event(
                connection, kind=ABANDONED, instance_id=instance.id, at=now, text=words, details=details
            )
            await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, end_id))
            return end_id


async def _locked(connection: Connection, instance_id: str) -> TupleRow | None:
    """The job of a machine's end, if there is one. Until the transaction is over nobody changes it, or asks for one."""
    # Launch, machine, end: as everybody who writes to them does, or each would wait for the other.
    await connection.execute(
        "SELECT 1 FROM jobs WHERE instance_id = %s AND kind = 'launch' FOR NO KEY UPDATE", (instance_id,)
    )
    await lock_instance(connection, instance_id)
    cursor = await connection.execute(
        "SELECT id, status FROM jobs WHERE instance_id = %s AND kind = 'terminate' FOR NO KEY UPDATE", (instance_id,)
    )
    return await cursor.fetchone()
