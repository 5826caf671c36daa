"""Tenants and keys in PostgreSQL: all their SQL."""

# the parts put together are constants of this package; values are bound

from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg import errors

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_identity import checks, policy
from crosslogic_identity.audit_store import append
from crosslogic_identity.domain import (
    Actor,
    ApiKey,
    Environment,
    EnvironmentChanges,
    KeyChanges,
    KeyOwner,
    Org,
    OrgChanges,
)
from crosslogic_identity.entries import entry_of
from crosslogic_identity.rows import ENVIRONMENTS, KEYS, ORGS, PLANS, Table, Thing

CHANNEL = "identity_revocations"
"""Of NOTIFY; the payload is `<scope>:<id>`, or `cut_<scope>:<id>` where streams under way end too."""


class PostgresStore:
    """Implements ports.TenantStore."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add_org(self, org: Org, request_id: str, by: Actor) -> Org:
        """See ports.TenantStore."""
        try:
            async with transaction(self._pool) as connection:
                made = await _made_before(connection, request_id, org.id, policy.content_of(org))
                if made is not None:
                    return known(await one(connection, ORGS, "orgs", str(made)))
                await connection.execute(ORGS.insert("orgs"), ORGS.values(org))
                await append(connection, entry_of(by, "org.create", None, org))
                return org
        except errors.ForeignKeyViolation:
            raise _no_such_plan() from None

    async def org(self, id_: str) -> Org | None:
        """See ports.TenantStore."""
        async with transaction(self._pool) as connection:
            return await one(connection, ORGS, "orgs", id_)

    async def orgs(self, after: str, limit: int) -> list[Org]:
        """See ports.TenantStore."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {ORGS.selected('o')} FROM orgs o WHERE o.id > %s ORDER BY o.id LIMIT %s", (after, limit)
            )
            return [ORGS.read(row) for row in await cursor.fetchall()]

    async def change_org(self, id_: str, changes: OrgChanges, by: Actor, *, cut: bool = False) -> Org:
        """See ports.TenantStore."""
        try:
            async with transaction(self._pool) as connection:
                before = known(await one(connection, ORGS, "orgs", id_, lock=True))
                after = policy.touched(policy.changed(before, changes, by), await now(connection))
                await connection.execute(ORGS.update("orgs"), ORGS.values(after))
                if changes.touch_requests:
                    await announce(connection, "org", id_, cut=cut and after.status == "suspended")
                await append(connection, entry_of(by, "org.update", before, after))
                return after
        except errors.ForeignKeyViolation:
            raise _no_such_plan() from None

    async def add_environment(self, environment: Environment, request_id: str, by: Actor) -> Environment:
        """See ports.TenantStore."""
        try:
            async with transaction(self._pool) as connection:
                made = await _made_before(connection, request_id, environment.id, policy.content_of(environment))
                if made is not None:
                    return known(await one(connection, ENVIRONMENTS, "environments", str(made)))
                await connection.execute(ENVIRONMENTS.insert("environments"), ENVIRONMENTS.values(environment))
                await append(connection, entry_of(by, "environment.create", None, environment))
                return environment
        except errors.UniqueViolation:
            raise _name_taken(environment.name) from None
        except errors.ForeignKeyViolation:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such organisation.") from None

    async def environment(self, id_: str) -> Environment | None:
        """See ports.TenantStore."""
        async with transaction(self._pool) as connection:
            return await one(connection, ENVIRONMENTS, "environments", id_)

    async def environments(self, org_id: str, after: str, limit: int) -> list[Environment]:
        """See ports.TenantStore."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {ENVIRONMENTS.selected('e')} FROM environments e WHERE e.org_id = %s AND e.id > %s "
                "ORDER BY e.id LIMIT %s",
                (org_id, after, limit),
            )
            return [ENVIRONMENTS.read(row) for row in await cursor.fetchall()]

    async def change_environment(
        self, id_: str, changes: EnvironmentChanges, by: Actor, *, cut: bool = False
    ) -> Environment:
        """See ports.TenantStore."""
        try:
            async with transaction(self._pool) as connection:
                before = known(await one(connection, ENVIRONMENTS, "environments", id_, lock=True))
                after = checks.environment(policy.touched(policy.changed(before, changes, by), await now(connection)))
                await connection.execute(ENVIRONMENTS.update("environments"), ENVIRONMENTS.values(after))
                if changes.touch_requests:
                    await announce(connection, "environment", id_, cut=cut and after.status == "suspended")
                await append(connection, entry_of(by, "environment.update", before, after))
                return after
        except errors.UniqueViolation:
            raise _name_taken(changes.name or "") from None

    async def add_api_key(self, key: ApiKey, secret_sha256: bytes, by: Actor) -> ApiKey:
        """See ports.TenantStore."""
        async with transaction(self._pool) as connection:
            await _insert_key(connection, key, secret_sha256)
            await append(connection, entry_of(by, "api_key.create", None, key))
            return key

    async def api_key(self, id_: str) -> ApiKey | None:
        """See ports.TenantStore."""
        async with transaction(self._pool) as connection:
            return await one(connection, KEYS, "api_keys", id_)

    async def api_keys(self, environment_id: str, after: str, limit: int) -> list[ApiKey]:
        """See ports.TenantStore."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {KEYS.selected('k')} FROM api_keys k WHERE k.environment_id = %s AND k.id > %s "
                "ORDER BY k.id LIMIT %s",
                (environment_id, after, limit),
            )
            return [KEYS.read(row) for row in await cursor.fetchall()]

    async def change_api_key(self, id_: str, changes: KeyChanges, by: Actor, *, cut: bool = False) -> ApiKey:
        """See ports.TenantStore."""
        async with transaction(self._pool) as connection:
            before = await _living_key(connection, id_)
            after = policy.changed(before, changes, by)
            await connection.execute(KEYS.update("api_keys"), KEYS.values(after))
            if changes.touch_requests:
                await announce(connection, "api_key", id_, cut=cut and after.status == "suspended")
            await append(connection, entry_of(by, "api_key.update", before, after))
            return after

    async def revoke_api_key(self, id_: str, now: datetime, by: Actor, *, cut: bool = False) -> ApiKey:
        """See ports.TenantStore."""
        async with transaction(self._pool) as connection:
            before = known(await one(connection, KEYS, "api_keys", id_, lock=True))
            after = policy.revoked(before, now)
            await connection.execute(KEYS.update("api_keys"), KEYS.values(after))
            await announce(connection, "api_key", id_, cut=cut)
            await append(connection, entry_of(by, "api_key.revoke", before, after))
            return after

    async def rotate_api_key(
        self,
        id_: str,
        successor: ApiKey,
        secret_sha256: bytes,
        ends_at: datetime,
        by: Actor,
        *,
        cut: bool = False,
    ) -> tuple[ApiKey, ApiKey]:
        """See ports.TenantStore."""
        async with transaction(self._pool) as connection:
            before = await _living_key(connection, id_)
            made = policy.successor_of(before, successor)
            after = policy.ending(before, ends_at)
            await _insert_key(connection, made, secret_sha256)
            await connection.execute(KEYS.update("api_keys"), KEYS.values(after))
            await announce(connection, "api_key", id_, cut=cut)
            await append(connection, entry_of(by, "api_key.rotate", before, after, reason=f"successor {made.id}"))
            await append(connection, entry_of(by, "api_key.create", None, made, reason=f"successor of {id_}"))
            return made, after

    async def owner(self, secret_sha256: bytes) -> KeyOwner | None:
        """See ports.TenantStore. One round trip, one row by a unique index and three by primary key."""
        keys, environments, orgs = len(KEYS.columns), len(ENVIRONMENTS.columns), len(ORGS.columns)
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {KEYS.selected('k')}, {ENVIRONMENTS.selected('e')}, {ORGS.selected('o')}, "
                f"{PLANS.selected('p')} FROM api_keys k JOIN environments e ON e.id = k.environment_id "
                "JOIN orgs o ON o.id = k.org_id JOIN plans p ON p.name = o.plan WHERE k.secret_sha256 = %s",
                (secret_sha256,),
            )
            row = await cursor.fetchone()
        if row is None:
            return None
        return KeyOwner(
            KEYS.read(row[:keys]),
            ENVIRONMENTS.read(row[keys : keys + environments]),
            ORGS.read(row[keys + environments : keys + environments + orgs]),
            PLANS.read(row[keys + environments + orgs :]),
        )


async def one(
    connection: Connection, table: Table[Thing], name: LiteralString, id_: str, *, lock: bool = False
) -> Thing | None:
    """One row by its first column."""
    locking: LiteralString = " FOR UPDATE" if lock else ""
    cursor = await connection.execute(
        f"SELECT {table.selected('t')} FROM {name} t WHERE t.{table.columns[0]} = %s{locking}", (id_,)
    )
    row = await cursor.fetchone()
    return None if row is None else table.read(row)


def known(found: Thing | None) -> Thing:
    """What must be there. Raises NOT_FOUND."""
    if found is None:
        raise CodedError(ErrorCode.NOT_FOUND)
    return found


async def announce(connection: Connection, scope: str, id_: str, *, cut: bool = False) -> None:
    """Tells every replica, in the same transaction: what is announced did happen, and what happened is announced."""
    # A replica that does not know the word yet makes its gateways forget everything.
    word = f"cut_{scope}" if cut else scope
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, f"{word}:{id_}"))


async def now(connection: Connection) -> datetime:
    """The time of the transaction, by the database's clock."""
    cursor = await connection.execute("SELECT now()")
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  # a SELECT without FROM has one row
    moment: datetime = row[0]
    return moment


async def _insert_key(connection: Connection, key: ApiKey, secret_sha256: bytes) -> None:
    await connection.execute(
        KEYS.insert("api_keys", extra="secret_sha256"), KEYS.values(key, secret_sha256=secret_sha256)
    )


async def _living_key(connection: Connection, id_: str) -> ApiKey:
    key = known(await one(connection, KEYS, "api_keys", id_, lock=True))
    if key.status == "revoked":
        raise CodedError(ErrorCode.CONFLICT, "The key is revoked for good: create a new one.")
    return key


async def _made_before(connection: Connection, request_id: str, object_id: str, content_sha256: bytes) -> UUID | None:
    """The object that this request made before; else notes that it makes `object_id` now.

    The same request running twice at once waits here for the other to commit. Raises INVALID_ARGUMENT for another
    request with the same id.
    """
    if not request_id:
        return None
    await connection.execute("DELETE FROM create_requests WHERE created_at < now() - interval '24 hours'")
    cursor = await connection.execute(
        "INSERT INTO create_requests (request_id, object_id, content_sha256) VALUES (%s, %s, %s) "
        "ON CONFLICT (request_id) DO NOTHING RETURNING object_id",
        (request_id, object_id, content_sha256),
    )
    if await cursor.fetchone() is not None:
        return None
    cursor = await connection.execute(
        "SELECT object_id, content_sha256 FROM create_requests WHERE request_id = %s", (request_id,)
    )
    before = await cursor.fetchone()
    if before is None:
        # It expired in between, under the hands of another request.
        raise CodedError(ErrorCode.UNAVAILABLE, private="create request vanished", retry_after_s=1.0)
    if before[1] != content_sha256:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`request_id` was used for another request.", param="request_id")
    found: UUID = before[0]
    return found


def _name_taken(name: str) -> CodedError:
    return CodedError(ErrorCode.ALREADY_EXISTS, f"The organisation has an environment named {name!r} already.")


def _no_such_plan() -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, "`plan`: there is no such plan.", param="plan")
