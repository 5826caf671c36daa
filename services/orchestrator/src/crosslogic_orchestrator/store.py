"""Jobs and machines in PostgreSQL. Transactions are short, and nothing is asked of anybody else inside one."""

from collections.abc import AsyncIterator, Collection
from datetime import datetime
from typing import Any, LiteralString, cast
from uuid import UUID

from psycopg import errors
from psycopg.rows import TupleRow

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, notifications, transaction
from crosslogic_orchestrator.domain import (
    Instance,
    Job,
    JobKind,
    JobStatus,
    Loaded,
    LogLine,
    Spec,
    Step,
    StepRow,
    plain,
)
from crosslogic_orchestrator.events import add_machine_event
from crosslogic_orchestrator.job_log import add_lines, lines_of

CHANNEL = "fleet_jobs"
SCHEMA = "fleet"

_INSTANCE: LiteralString = (
    "i.id, i.model, i.provider, i.region, i.instance_type, i.use_spot, i.org_id, i.state, "
    "i.hourly_price_picodollars, i.job_id, i.created_at, i.ended_at"
)
_JOB: LiteralString = (
    "j.id, j.kind, j.status, j.step, j.step_at, j.task, j.error, j.drain_timeout_s, j.created_at, j.updated_at, "
    "j.lease_epoch, now(), j.asked_again, j.asked_again_at"
)
_SELECT: LiteralString = f"SELECT {_JOB}, {_INSTANCE} FROM jobs j JOIN instances i ON i.id = j.instance_id"
# Rows of whoever holds the job: one that was taken over matches nothing.
_HELD: LiteralString = "id = %s AND lease_epoch = %s AND status = 'running'"
FROM_NOW: LiteralString = "now() + make_interval(secs => %s)"
"""In so many seconds, by the database's clock: those of replicas differ."""


class PostgresStore:
    """See ports.Store."""

    def __init__(self, pool: Pool, *, dsn: str) -> None:
        """`dsn` is for listening, which a pooled connection cannot do."""
        self._pool = pool
        self._dsn = dsn

    async def add_launch(self, job: Job, *, request_id: str) -> Job:
        """See ports.Store."""
        try:
            async with transaction(self._pool) as connection:
                await insert_launch(connection, job, request_id=request_id)
        except errors.UniqueViolation:
            known = await self.requested(request_id, job.instance.spec)
            if known is None:
                raise
            return known
        return await self._whole(job.id)

    async def requested(self, request_id: str, spec: Spec) -> Job | None:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(f"{_SELECT} WHERE j.request_id = %s", (request_id,))
            row = await cursor.fetchone()
        if row is None:
            return None
        known = _job(row)
        if known.instance.spec != spec:
            raise CodedError(ErrorCode.CONFLICT, "`request_id` was used for another machine.", param="request_id")
        return await self._whole(known.id)

    async def add_terminate(self, job: Job) -> Job:
        """See ports.Store."""
        try:
            async with transaction(self._pool) as connection:
                await insert_end(connection, job)
        except errors.UniqueViolation:
            async with transaction(self._pool) as connection:
                cursor = await connection.execute(
                    f"{_SELECT} WHERE j.instance_id = %s AND j.kind = 'terminate'", (job.instance.id,)
                )
                row = await cursor.fetchone()
            return await self._whole(_job(cast("TupleRow", row)).id)
        return await self._whole(job.id)

    async def claim(self, *, lease_s: float, passing_over: Collection[str] = ()) -> Job | None:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"UPDATE jobs SET lease_epoch = lease_epoch + 1, lease_until = {FROM_NOW} WHERE id = ("
                "SELECT j.id FROM jobs j JOIN instances i ON i.id = j.instance_id WHERE j.status = 'running' "
                "AND j.wake_at <= now() AND j.lease_until <= now() AND i.provider <> ALL(%s) "
                "ORDER BY j.wake_at LIMIT 1 FOR UPDATE OF j SKIP LOCKED) RETURNING id",
                (lease_s, list(passing_over)),
            )
            taken = await cursor.fetchone()
            if taken is None:
                return None
            cursor = await connection.execute(f"{_SELECT} WHERE j.id = %s", (taken[0],))
            return _job(cast("TupleRow", await cursor.fetchone()))

    async def renew(self, job: Job, *, lease_s: float) -> bool:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"UPDATE jobs SET lease_until = {FROM_NOW} WHERE {_HELD}", (lease_s, job.id, job.epoch)
            )
            return cursor.rowcount == 1

    async def reach(
        self, job: Job, step: Step, *, detail: str, task: str | None, loaded: Loaded | None, now: datetime
    ) -> bool:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE jobs SET step = %s, step_at = now(), task = coalesce(%s, task), updated_at = %s, "
                f"wake_at = now(), lease_until = '-infinity' WHERE {_HELD}",
                (step, task, now, job.id, job.epoch),
            )
            if cursor.rowcount != 1:
                return False
            await _begin_steps(connection, job, step, detail=detail, now=now)
            await _note_loaded(connection, job, loaded)
            await _say(connection, job, detail, now=now)
            await _tell(connection, job.id)
            return True

    async def wait(self, job: Job, *, detail: str, loaded: Loaded | None, now: datetime, rest_s: float) -> bool:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"UPDATE jobs SET wake_at = {FROM_NOW}, lease_until = '-infinity' WHERE {_HELD}",
                (rest_s, job.id, job.epoch),
            )
            if cursor.rowcount != 1:
                return False
            await _go_on(connection, job, detail=detail, loaded=loaded, now=now)
            return True

    async def asked_again(self, job: Job, *, detail: str, now: datetime, rest_s: float) -> bool:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE jobs SET asked_again = asked_again + 1, asked_again_at = now(), "
                f"wake_at = {FROM_NOW}, lease_until = '-infinity' WHERE {_HELD}",
                (rest_s, job.id, job.epoch),
            )
            if cursor.rowcount != 1:
                return False
            await _go_on(connection, job, detail=detail, loaded=None, now=now)
            return True

    async def give_up(self, job: Job, error: str, *, now: datetime) -> bool:
        """See ports.Store."""
        error = plain(error)
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE jobs SET error = %s, step_at = now(), updated_at = %s, wake_at = now(), "
                "lease_until = '-infinity' "
                f"WHERE {_HELD} AND error = ''",
                (error, now, job.id, job.epoch),
            )
            if cursor.rowcount == 1:
                await _say(connection, job, error, now=now)
                await _tell(connection, job.id)
                text = f"The launch of a machine for {job.instance.spec.model} failed: {error}"
                await add_machine_event(
                    connection, kind="launch_failed", instance_id=job.instance.id, at=now, text=text
                )
                return True
            return False

    async def end(self, job: Job, *, price_picodollars: int, now: datetime) -> bool:
        """See ports.Store."""
        failed = bool(job.error)
        async with transaction(self._pool) as connection:
            if job.kind == "terminate":
                # As whoever asks for the end once more: with the job first, each would wait for the other.
                await lock_instance(connection, job.instance.id)
            cursor = await connection.execute(
                "UPDATE jobs SET status = %s, updated_at = %s, lease_until = '-infinity' " + f"WHERE {_HELD}",
                ("failed" if failed else "succeeded", now, job.id, job.epoch),
            )
            if cursor.rowcount != 1:
                return False
            await _end_steps(connection, job.id, now=now)
            if job.kind == "terminate" or failed:
                await connection.execute(
                    "UPDATE instances SET state = 'terminated', ended_at = %s WHERE id = %s AND ended_at IS NULL",
                    (now, job.instance.id),
                )
            else:
                await connection.execute(
                    # What a provider does not tell stays what the catalogue said.
                    "UPDATE instances SET state = 'active', "
                    "hourly_price_picodollars = coalesce(nullif(%s, 0), hourly_price_picodollars) "
                    "WHERE id = %s AND state = 'launching'",
                    (price_picodollars, job.instance.id),
                )
            await _tell(connection, job.id)
            return True

    async def job(self, job_id: str) -> Job | None:
        """See ports.Store."""
        if not _is_uuid(job_id):
            return None
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(f"{_SELECT} WHERE j.id = %s", (job_id,))
            row = await cursor.fetchone()
            if row is None:
                return None
            cursor = await connection.execute(
                "SELECT step, started_at, ended_at, detail, bytes_done, bytes_total FROM job_steps "
                "WHERE job_id = %s ORDER BY step",
                (job_id,),
            )
            steps = tuple(_step(each) for each in await cursor.fetchall())
            return _job(row, steps, await lines_of(connection, job_id))

    async def _whole(self, job_id: str) -> Job:
        job = await self.job(job_id)
        assert job is not None  # noqa: S101  # jobs are never deleted
        return job

    async def instance(self, instance_id: str) -> Instance | None:
        """See ports.Store."""
        if not _is_uuid(instance_id):
            return None
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(f"SELECT {_INSTANCE} FROM instances i WHERE i.id = %s", (instance_id,))
            row = await cursor.fetchone()
            return None if row is None else _instance(row)

    async def instances(self, *, after: str, limit: int, include_ended: bool) -> list[Instance]:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_INSTANCE} FROM instances i WHERE (%s::uuid IS NULL OR i.id < %s::uuid) "
                "AND (%s OR i.ended_at IS NULL) ORDER BY i.id DESC LIMIT %s",
                (after or None, after or None, include_ended, limit),
            )
            return [_instance(row) for row in await cursor.fetchall()]

    async def alive(self, provider: str = "") -> list[Instance]:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_INSTANCE} FROM instances i WHERE (%s = '' OR i.provider = %s) AND i.ended_at IS NULL",
                (provider, provider),
            )
            return [_instance(row) for row in await cursor.fetchall()]

    async def lose(self, instance_id: str, *, now: datetime) -> bool:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE instances SET state = 'lost', ended_at = %s WHERE id = %s AND state = 'active'",
                (now, instance_id),
            )
            if cursor.rowcount != 1:
                return False
            text = f"The machine {instance_id} is gone by itself."
            await add_machine_event(connection, kind="node_lost", instance_id=instance_id, at=now, text=text)
            return True

    async def end_dead(self, job: Job, words: str) -> bool:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT 1 FROM instances WHERE id = %s AND state = 'active' FOR UPDATE", (job.instance.id,)
            )
            if await cursor.fetchone() is None:
                return False
            await insert_end(connection, job)
            await add_machine_event(
                connection, kind="node_lost", instance_id=job.instance.id, at=job.created_at, text=words
            )
            return True

    def changes(self) -> AsyncIterator[str | None]:
        """See ports.Store."""
        return notifications(self._dsn, schema=SCHEMA, channel=CHANNEL)


async def insert_launch(
    connection: Connection, job: Job, *, request_id: str = "", deployment_id: str = "", replaces: str = ""
) -> None:
    """Keeps a new launch and its instance, in the caller's transaction. Raises UniqueViolation for a known request."""
    instance, spec = job.instance, job.instance.spec
    await connection.execute(
        "INSERT INTO instances (id, model, provider, region, instance_type, use_spot, org_id, state, "
        "hourly_price_picodollars, job_id, created_at, deployment_id, replaces) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, 'launching', %s, %s, %s, %s, %s)",
        (
            instance.id,
            spec.model,
            spec.provider,
            spec.region,
            spec.instance_type,
            spec.use_spot,
            spec.org_id or None,
            instance.hourly_price_picodollars,
            job.id,
            instance.created_at,
            deployment_id or None,
            replaces or None,
        ),
    )
    await _insert_job(connection, job, request_id)


async def lock_instance(connection: Connection, instance_id: str) -> None:
    """Keeps a machine as it is until the caller's transaction is over. After its launch, before its end."""
    await connection.execute("SELECT 1 FROM instances WHERE id = %s FOR NO KEY UPDATE", (instance_id,))


async def insert_end(connection: Connection, job: Job) -> None:
    """Keeps a machine's end, in the caller's transaction. Raises UniqueViolation where it has one."""
    # Whoever launches it now is too late: the epoch refuses what they still write. Why it was failing already stands.
    cursor = await connection.execute(
        "UPDATE jobs SET status = 'failed', error = coalesce(nullif(error, ''), %s), "
        "lease_epoch = lease_epoch + 1, updated_at = %s "
        "WHERE instance_id = %s AND kind = 'launch' AND status = 'running' RETURNING id",
        ("The machine was terminated before it served.", job.created_at, job.instance.id),
    )
    launching = await cursor.fetchone()
    if launching is not None:
        await _end_steps(connection, launching[0], now=job.created_at)
        await _tell(connection, launching[0])
    await connection.execute(
        "UPDATE instances SET state = 'terminating', job_id = %s WHERE id = %s AND ended_at IS NULL",
        (job.id, job.instance.id),
    )
    await _insert_job(connection, job, "")


async def _insert_job(connection: Connection, job: Job, request_id: str) -> None:
    await connection.execute(
        "INSERT INTO jobs (id, kind, instance_id, status, step, step_at, drain_timeout_s, request_id, created_at, "
        "updated_at, wake_at) VALUES (%s, %s, %s, 'running', %s, now(), %s, %s, %s, %s, now())",
        (
            job.id,
            job.kind,
            job.instance.id,
            job.step,
            job.drain_timeout_s,
            request_id or None,
            job.created_at,
            job.created_at,
        ),
    )
    await connection.execute(
        "INSERT INTO job_steps (job_id, step, started_at) VALUES (%s, %s, %s)", (job.id, job.step, job.created_at)
    )
    await _tell(connection, job.id)


async def _begin_steps(connection: Connection, job: Job, step: Step, *, detail: str, now: datetime) -> None:
    """Ends the step that was, begins the one that is, and notes those between, which took no time that was seen."""
    await _end_steps(connection, job.id, now=now)
    for passed in range(job.step + 1, step + 1):
        await connection.execute(
            "INSERT INTO job_steps (job_id, step, started_at, ended_at, detail) VALUES (%s, %s, %s, %s, %s) "
            "ON CONFLICT DO NOTHING",
            (job.id, passed, now, None if passed == step else now, plain(detail) if passed == step else ""),
        )


async def _go_on(connection: Connection, job: Job, *, detail: str, loaded: Loaded | None, now: datetime) -> None:
    """Writes down what is new of the step that the job is at, and says so."""
    said = plain(detail)
    cursor = await connection.execute(
        "UPDATE job_steps SET detail = %s WHERE job_id = %s AND step = %s AND detail IS DISTINCT FROM %s",
        (said, job.id, job.step, said),
    )
    if cursor.rowcount:
        await _say(connection, job, said, now=now)
    if await _note_loaded(connection, job, loaded) or cursor.rowcount:
        await connection.execute("UPDATE jobs SET updated_at = %s WHERE id = %s", (now, job.id))
        await _tell(connection, job.id)


async def _note_loaded(connection: Connection, job: Job, loaded: Loaded | None) -> bool:
    """Writes down how much of the weights is there, whatever step the job is at by now. Whether that is news."""
    if loaded is None:
        return False
    cursor = await connection.execute(
        "UPDATE job_steps SET bytes_done = %s, bytes_total = %s "
        "WHERE job_id = %s AND step = %s AND (bytes_done, bytes_total) IS DISTINCT FROM (%s, %s)",
        (*loaded, job.id, Step.WEIGHTS_LOADING, *loaded),
    )
    return cursor.rowcount == 1


async def _end_steps(connection: Connection, job_id: str, *, now: datetime) -> None:
    await connection.execute("UPDATE job_steps SET ended_at = %s WHERE job_id = %s AND ended_at IS NULL", (now, job_id))


async def _say(connection: Connection, job: Job, text: str, *, now: datetime) -> None:
    await add_lines(connection, job.id, [LogLine(at=now, source="orchestrator", text=text)])


async def _tell(connection: Connection, job_id: str) -> None:
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(job_id)))


def _job(row: TupleRow, steps: tuple[StepRow, ...] = (), logs: tuple[LogLine, ...] = ()) -> Job:
    return Job(
        id=str(row[0]),
        kind=cast("JobKind", row[1]),
        status=cast("JobStatus", row[2]),
        step=Step(row[3]),
        step_at=row[4],
        task=row[5],
        error=row[6],
        drain_timeout_s=row[7],
        created_at=row[8],
        updated_at=row[9],
        epoch=row[10],
        read_at=row[11],
        asked_again=row[12],
        asked_again_at=row[13],
        instance=_instance(row[14:]),
        steps=steps,
        logs=logs,
    )


def _instance(row: tuple[Any, ...]) -> Instance:
    return Instance(
        id=str(row[0]),
        spec=Spec(
            model=row[1],
            provider=row[2],
            region=row[3],
            instance_type=row[4],
            use_spot=row[5],
            org_id=str(row[6]) if row[6] else "",
        ),
        state=row[7],
        hourly_price_picodollars=row[8],
        job_id=str(row[9]),
        created_at=row[10],
        ended_at=row[11],
    )


def _step(row: TupleRow) -> StepRow:
    return StepRow(
        step=Step(row[0]), started_at=row[1], ended_at=row[2], detail=row[3], bytes_done=row[4], bytes_total=row[5]
    )


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
