"""Deployments, decisions and events in PostgreSQL."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg import errors
from psycopg.rows import TupleRow

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_orchestrator.domain import Instance, Spec
from crosslogic_orchestrator.events import add_event
from crosslogic_orchestrator.jobs import end_job, launch_job
from crosslogic_orchestrator.scaling.domain import Deployment
from crosslogic_orchestrator.scaling.records import (
    Decided,
    DecisionRow,
    EventRow,
    Kept,
    World,
    asked_json,
    deployment_of,
    plan_json,
)
from crosslogic_orchestrator.scaling.world_queries import alive_machines, attempts_of, lived_of, waiting_of
from crosslogic_orchestrator.store import FROM_NOW, insert_end, insert_launch

MAX_DEPLOYMENTS = 1_000
LOOP = "autoscaler"
_DRAIN_S = 120.0
_COLUMNS: LiteralString = "id, model, region, asked, revision, created_at, updated_at, scaled_up_at, scaled_down_at"


class ScalingStore:
    """What scaling keeps. Every method raises UNAVAILABLE while the database is away."""

    def __init__(self, pool: Pool, *, ids: Uuid7Source) -> None:
        self._pool = pool
        self._ids = ids

    # Deployments.

    async def create(self, deployment: Deployment, *, now: datetime) -> Kept:
        """Keeps a new deployment. Raises ALREADY_EXISTS, OVERLOADED."""
        try:
            async with transaction(self._pool) as connection:
                cursor = await connection.execute("SELECT count(*) FROM deployments WHERE ended_at IS NULL")
                if (await _one(cursor.fetchone()))[0] >= MAX_DEPLOYMENTS:
                    raise CodedError(ErrorCode.OVERLOADED, f"There are {MAX_DEPLOYMENTS:,} deployments already.")
                cursor = await connection.execute(
                    "INSERT INTO deployments (id, model, region, asked, created_at, updated_at) "
                    f"VALUES (%s, %s, %s, %s, %s, %s) RETURNING {_COLUMNS}",
                    (
                        deployment.id,
                        deployment.model,
                        deployment.region,
                        json.dumps(asked_json(deployment)),
                        now,
                        now,
                    ),
                )
                return _kept(await _one(cursor.fetchone()))
        except errors.UniqueViolation:
            raise CodedError(
                ErrorCode.ALREADY_EXISTS, f"{deployment.model} has a deployment in {deployment.region or 'any region'}."
            ) from None

    async def deployments(self) -> list[Kept]:
        """All of them, oldest first."""
        async with transaction(self._pool) as connection:
            return await _all(connection)

    async def deployment(self, deployment_id: str) -> Kept:
        """One. Raises NOT_FOUND."""
        _check_id(deployment_id)
        async with transaction(self._pool) as connection:
            return await _the(connection, deployment_id)

    async def update(self, deployment: Deployment, *, revision: int, now: datetime) -> Kept:
        """Replaces what it asks for. `revision` 0: whichever is kept. Raises NOT_FOUND, CONFLICT."""
        async with transaction(self._pool) as connection:
            known = await _the(connection, deployment.id, lock=True)
            if revision and known.deployment.revision != revision:
                raise CodedError(
                    ErrorCode.CONFLICT, f"The deployment is at revision {known.deployment.revision}.", param="revision"
                )
            cursor = await connection.execute(
                "UPDATE deployments SET asked = %s, revision = revision + 1, updated_at = %s WHERE id = %s "
                f"RETURNING {_COLUMNS}",
                (json.dumps(asked_json(deployment)), now, deployment.id),
            )
            return _kept(await _one(cursor.fetchone()))

    async def end(self, deployment_id: str, *, now: datetime) -> None:
        """Ends a deployment and its machines. Raises NOT_FOUND where there never was one."""
        _check_id(deployment_id)
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE deployments SET ended_at = coalesce(ended_at, %s) WHERE id = %s", (now, deployment_id)
            )
            if cursor.rowcount == 0:
                raise _not_found()
            for machine in await alive_machines(connection):
                if machine.deployment_id == deployment_id:
                    await self._end_machine(connection, machine.instance, now=now)

    async def hold(
        self, *, model: str, region: str, reporter: str, waiting: int, now: datetime, until: datetime
    ) -> Kept | None:
        """Notes that requests wait. The deployment that they wait for; None: there is none."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_COLUMNS} FROM deployments WHERE model = %s AND (%s = '' OR region IN ('', %s)) "
                "AND ended_at IS NULL ORDER BY asked->>'mode' = 'active' DESC, region = %s DESC, created_at LIMIT 1",
                (model, region, region, region),
            )
            row = await cursor.fetchone()
            if row is None:
                return None
            await connection.execute("DELETE FROM waiting_requests WHERE until < %s", (now,))
            await connection.execute(
                "INSERT INTO waiting_requests (deployment_id, reporter, waiting, until) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (deployment_id, reporter) DO UPDATE "
                "SET waiting = excluded.waiting, until = excluded.until",
                (row[0], reporter, waiting, until),
            )
            return _kept(row)

    # What the autoscaler needs.

    async def lead(self, *, epoch: int, lease_s: float) -> int:
        """Keeps the lease of `epoch`, or takes it over once it is over. The epoch that is held; 0: somebody else's.

        It goes by the database's clock: those of replicas differ.
        """
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"UPDATE loop_leases SET until = {FROM_NOW} WHERE name = %s AND epoch = %s", (lease_s, LOOP, epoch)
            )
            if cursor.rowcount == 1:
                return epoch
            cursor = await connection.execute(
                f"INSERT INTO loop_leases (name, epoch, until) VALUES (%s, 1, {FROM_NOW}) ON CONFLICT (name) DO UPDATE "
                "SET epoch = loop_leases.epoch + 1, until = excluded.until WHERE loop_leases.until <= now() "
                "RETURNING epoch",
                (LOOP, lease_s),
            )
            row = await cursor.fetchone()
            return 0 if row is None else int(row[0])

    async def world(self, *, now: datetime) -> World:
        """All that is known of the deployments."""
        async with transaction(self._pool) as connection:
            return World(
                deployments=tuple(await _all(connection)),
                machines=await alive_machines(connection),
                attempts=await attempts_of(connection, now=now),
                lived=await lived_of(connection, now=now),
                waiting=await waiting_of(connection, now=now),
            )

    async def carry_out(self, decided: Decided, *, epoch: int) -> bool:
        """Keeps a decision with what comes of it: jobs and events, all or nothing.

        False: somebody else decides now, or the deployment is not what it was decided for.
        """
        deployment, plan, now = decided.kept.deployment, decided.plan, decided.at
        async with transaction(self._pool) as connection:
            if not await _may_decide(connection, deployment, epoch):
                return False
            launched: list[str] = []
            if decided.act:
                launched = await self._launch(connection, decided)
                await self._end_machines(connection, decided)
                await connection.execute(
                    "UPDATE deployments SET scaled_up_at = %s, scaled_down_at = %s WHERE id = %s",
                    (decided.history.scaled_up_at, decided.history.scaled_down_at, deployment.id),
                )
            body = plan_json(plan, launched=tuple(launched), dry_run=not decided.act)
            await connection.execute(
                "INSERT INTO decisions (deployment_id, at, body) VALUES (%s, %s, %s)",
                (deployment.id, now, json.dumps(body)),
            )
            if decided.act:
                await _tell_held(connection, decided)
            return True

    async def _launch(self, connection: Connection, decided: Decided) -> list[str]:
        deployment, launched = decided.kept.deployment, []
        for launch in decided.plan.launches:
            offer = launch.offer
            spec = Spec(
                model=deployment.model,
                provider=offer.provider,
                region=offer.region,
                instance_type=offer.instance_type,
                use_spot=offer.spot,
            )
            job = launch_job(spec, ids=self._ids, now=decided.at, price_picodollars=offer.price_picodollars)
            await insert_launch(connection, job, deployment_id=deployment.id, replaces=launch.replaces)
            launched.append(job.instance.id)
            await add_event(
                connection,
                kind="replacement_requested" if launch.replaces else "scale_up",
                deployment_id=deployment.id,
                instance_id=job.instance.id,
                at=decided.at,
                text=f"A machine for {deployment.model} at {offer.place} was asked for: {launch.why}.",
                details={"replaces": launch.replaces, "placement": offer.why, "spot": offer.spot},
            )
        return launched

    async def _end_machines(self, connection: Connection, decided: Decided) -> None:
        deployment = decided.kept.deployment
        known = {machine.instance.id: machine.instance for machine in await alive_machines(connection)}
        for end in decided.plan.ends:
            instance = known.get(end.member_id)
            if instance is None or not await self._end_machine(connection, instance, now=decided.at):
                continue
            await add_event(
                connection,
                kind="scale_down",
                deployment_id=deployment.id,
                instance_id=end.member_id,
                at=decided.at,
                text=f"A machine for {deployment.model} ends: {end.why}.",
                details={},
            )

    async def _end_machine(self, connection: Connection, instance: Instance, *, now: datetime) -> bool:
        """False: somebody else ends it, or it is gone."""
        cursor = await connection.execute(
            "SELECT 1 FROM instances WHERE id = %s AND state IN ('launching', 'active') FOR UPDATE", (instance.id,)
        )
        if await cursor.fetchone() is None:
            return False
        await insert_end(connection, end_job(instance, ids=self._ids, now=now, drain_timeout_s=_DRAIN_S))
        return True

    # What people read.

    async def decisions(self, deployment_id: str, *, before: int, limit: int) -> list[DecisionRow]:
        """Newest first, older than `before` (0: all). Raises NOT_FOUND."""
        _check_id(deployment_id)
        async with transaction(self._pool) as connection:
            cursor = await connection.execute("SELECT 1 FROM deployments WHERE id = %s", (deployment_id,))
            if await cursor.fetchone() is None:
                raise _not_found()
            cursor = await connection.execute(
                "SELECT seq, at, body FROM decisions WHERE deployment_id = %s AND (%s = 0 OR seq < %s) "
                "ORDER BY seq DESC LIMIT %s",
                (deployment_id, before, before, limit),
            )
            return [DecisionRow(*row) for row in await cursor.fetchall()]

    async def newest_decisions(self) -> Mapping[str, DecisionRow]:
        """Of every deployment that has one."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT d.id, n.seq, n.at, n.body FROM deployments d CROSS JOIN LATERAL ("
                "SELECT seq, at, body FROM decisions WHERE deployment_id = d.id ORDER BY seq DESC LIMIT 1) n "
                "WHERE d.ended_at IS NULL"
            )
            return {str(row[0]): DecisionRow(*row[1:]) for row in await cursor.fetchall()}

    async def events(self, *, after: int, limit: int) -> list[EventRow]:
        """Oldest first."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT seq, kind, org_id, deployment_id, instance_id, at, text, details FROM events WHERE seq > %s "
                "ORDER BY seq LIMIT %s",
                (after, limit),
            )
            return [
                EventRow(
                    seq=row[0],
                    kind=row[1],
                    org_id=str(row[2] or ""),
                    deployment_id=str(row[3] or ""),
                    instance_id=str(row[4] or ""),
                    at=row[5],
                    text=row[6],
                    details=row[7],
                )
                for row in await cursor.fetchall()
            ]


async def _may_decide(connection: Connection, deployment: Deployment, epoch: int) -> bool:
    cursor = await connection.execute(
        "SELECT 1 FROM loop_leases WHERE name = %s AND epoch = %s FOR SHARE", (LOOP, epoch)
    )
    if await cursor.fetchone() is None:
        return False
    cursor = await connection.execute(
        "SELECT 1 FROM deployments WHERE id = %s AND revision = %s AND ended_at IS NULL FOR UPDATE",
        (deployment.id, deployment.revision),
    )
    return await cursor.fetchone() is not None


async def _tell_held(connection: Connection, decided: Decided) -> None:
    """What stood against a need is an event where nothing else was done."""
    plan, deployment = decided.plan, decided.kept.deployment
    if plan.launches or plan.ends or plan.desired <= plan.kept or not plan.held:
        return
    await add_event(
        connection,
        kind="scale_held",
        deployment_id=deployment.id,
        at=decided.at,
        text=f"{plan.desired} machines are needed for {deployment.model}, {plan.kept} are there: {plan.held[-1]}.",
        details={"held": list(plan.held)},
    )


async def _all(connection: Connection) -> list[Kept]:
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM deployments WHERE ended_at IS NULL ORDER BY created_at, id LIMIT {MAX_DEPLOYMENTS}"
    )
    return [_kept(row) for row in await cursor.fetchall()]


async def _the(connection: Connection, deployment_id: str, *, lock: bool = False) -> Kept:
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM deployments WHERE id = %s AND ended_at IS NULL" + (" FOR UPDATE" if lock else ""),
        (deployment_id,),
    )
    row = await cursor.fetchone()
    if row is None:
        raise _not_found()
    return _kept(row)


async def _one(row: Any) -> TupleRow:
    found: TupleRow | None = await row
    assert found is not None  # noqa: S101  # the statement returns a row
    return found


def _kept(row: TupleRow) -> Kept:
    return Kept(
        deployment_of(row[3], deployment_id=str(row[0]), model=row[1], region=row[2], revision=row[4]), *row[5:9]
    )


def _check_id(text: str) -> None:
    try:
        UUID(text)
    except ValueError:
        raise _not_found() from None


def _not_found() -> CodedError:
    return CodedError(ErrorCode.NOT_FOUND, "There is no such deployment.")
