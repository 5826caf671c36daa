"""All SQL of identity."""

# the parts put together are constants of this file; values are bound

from collections.abc import Callable
from datetime import datetime
from typing import LiteralString, TypeVar
from uuid import UUID

from psycopg import errors
from psycopg.rows import TupleRow

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_identity.domain import ApiKey, Changes, Environment, KeyOwner, Org
from crosslogic_identity.policy import content_of

CHANNEL = "identity_revocations"
"""Of NOTIFY; the payload is `<scope>:<id>`."""

_ORG: LiteralString = "o.id, o.name, o.status, o.cache_salt, o.created_at, o.updated_at"
_ENVIRONMENT: LiteralString = "e.id, e.org_id, e.name, e.status, e.region, e.allowed_models, e.created_at, e.updated_at"
_KEY: LiteralString = (
    "k.id, k.org_id, k.environment_id, k.name, k.kind, k.status, k.hint, k.allowed_models, k.expires_at, "
    "k.revoked_at, k.created_at"
)
Row = TypeVar("Row")


def _org(row: TupleRow) -> Org:
    return Org(str(row[0]), *row[1:])


def _environment(row: TupleRow) -> Environment:
    return Environment(str(row[0]), str(row[1]), row[2], row[3], row[4], tuple(row[5]), row[6], row[7])


def _api_key(row: TupleRow) -> ApiKey:
    return ApiKey(
        str(row[0]),
        str(row[1]),
        str(row[2]),
        row[3],
        row[4],
        row[5],
        row[6],
        tuple(row[7]),
        row[8],
        row[9],
        row[10],
    )


class PostgresStore:
    """Tenants and keys in PostgreSQL. Implements ports.Store."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add_org(self, org: Org, request_id: str) -> Org:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            made = await _made_before(connection, request_id, org.id, content_of(org))
            if made is None:
                await connection.execute(
                    "INSERT INTO orgs (id, name, status, cache_salt) VALUES (%s, %s, %s, %s)",
                    (org.id, org.name, org.status, org.cache_salt),
                )
            return _found(_org, await _one(connection, f"SELECT {_ORG} FROM orgs o WHERE o.id = %s", made or org.id))

    async def org(self, id_: str) -> Org | None:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            row = await _one(connection, f"SELECT {_ORG} FROM orgs o WHERE o.id = %s", id_)
        return None if row is None else _org(row)

    async def orgs(self, after: str, limit: int) -> list[Org]:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_ORG} FROM orgs o WHERE o.id > %s ORDER BY o.id LIMIT %s", (after, limit)
            )
            return [_org(row) for row in await cursor.fetchall()]

    async def change_org(self, id_: str, changes: Changes) -> Org:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            row = await _one(
                connection,
                "UPDATE orgs o SET name = coalesce(%s, o.name), status = coalesce(%s, o.status), updated_at = now() "
                f"WHERE o.id = %s RETURNING {_ORG}",
                changes.name,
                changes.status,
                id_,
            )
            if changes.touch_requests:
                await _announce(connection, "org", id_)
            return _found(_org, row)

    async def add_environment(self, environment: Environment, request_id: str) -> Environment:
        """See ports.Store."""
        try:
            async with transaction(self._pool) as connection:
                made = await _made_before(connection, request_id, environment.id, content_of(environment))
                if made is None:
                    await connection.execute(
                        "INSERT INTO environments (id, org_id, name, status, region, allowed_models) "
                        "VALUES (%s, %s, %s, %s, %s, %s)",
                        (
                            environment.id,
                            environment.org_id,
                            environment.name,
                            environment.status,
                            environment.region,
                            list(environment.allowed_models),
                        ),
                    )
                return _found(
                    _environment,
                    await _one(
                        connection,
                        f"SELECT {_ENVIRONMENT} FROM environments e WHERE e.id = %s",
                        made or environment.id,
                    ),
                )
        except errors.UniqueViolation:
            raise _name_taken(environment.name) from None
        except errors.ForeignKeyViolation:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such organisation.") from None

    async def environment(self, id_: str) -> Environment | None:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            row = await _one(connection, f"SELECT {_ENVIRONMENT} FROM environments e WHERE e.id = %s", id_)
        return None if row is None else _environment(row)

    async def environments(self, org_id: str, after: str, limit: int) -> list[Environment]:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_ENVIRONMENT} FROM environments e WHERE e.org_id = %s AND e.id > %s ORDER BY e.id LIMIT %s",
                (org_id, after, limit),
            )
            return [_environment(row) for row in await cursor.fetchall()]

    async def change_environment(self, id_: str, changes: Changes) -> Environment:
        """See ports.Store."""
        try:
            async with transaction(self._pool) as connection:
                row = await _one(
                    connection,
                    "UPDATE environments e SET name = coalesce(%s, e.name), status = coalesce(%s, e.status), "
                    "region = coalesce(%s, e.region), allowed_models = coalesce(%s::text[], e.allowed_models), "
                    f"updated_at = now() WHERE e.id = %s RETURNING {_ENVIRONMENT}",
                    changes.name,
                    changes.status,
                    changes.region,
                    None if changes.allowed_models is None else list(changes.allowed_models),
                    id_,
                )
                if changes.touch_requests:
                    await _announce(connection, "environment", id_)
                return _found(_environment, row)
        except errors.UniqueViolation:
            raise _name_taken(changes.name or "") from None

    async def add_api_key(self, key: ApiKey, secret_sha256: bytes) -> ApiKey:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            return await _insert_key(connection, key, secret_sha256)

    async def api_key(self, id_: str) -> ApiKey | None:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            row = await _one(connection, f"SELECT {_KEY} FROM api_keys k WHERE k.id = %s", id_)
        return None if row is None else _api_key(row)

    async def api_keys(self, environment_id: str, after: str, limit: int) -> list[ApiKey]:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_KEY} FROM api_keys k WHERE k.environment_id = %s AND k.id > %s ORDER BY k.id LIMIT %s",
                (environment_id, after, limit),
            )
            return [_api_key(row) for row in await cursor.fetchall()]

    async def change_api_key(self, id_: str, changes: Changes) -> ApiKey:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            await _lock_living_key(connection, id_)
            row = await _one(
                connection,
                "UPDATE api_keys k SET name = coalesce(%s, k.name), status = coalesce(%s, k.status), "
                f"allowed_models = coalesce(%s::text[], k.allowed_models) WHERE k.id = %s RETURNING {_KEY}",
                changes.name,
                changes.status,
                None if changes.allowed_models is None else list(changes.allowed_models),
                id_,
            )
            if changes.touch_requests:
                await _announce(connection, "api_key", id_)
            return _found(_api_key, row)

    async def revoke_api_key(self, id_: str, now: datetime) -> ApiKey:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            row = await _one(
                connection,
                "UPDATE api_keys k SET status = 'revoked', revoked_at = coalesce(k.revoked_at, %s) "
                f"WHERE k.id = %s RETURNING {_KEY}",
                now,
                id_,
            )
            await _announce(connection, "api_key", id_)
            return _found(_api_key, row)

    async def rotate_api_key(
        self, id_: str, successor: ApiKey, secret_sha256: bytes, ends_at: datetime
    ) -> tuple[ApiKey, ApiKey]:
        """See ports.Store."""
        async with transaction(self._pool) as connection:
            await _lock_living_key(connection, id_)
            made = await _insert_key(connection, successor, secret_sha256)
            row = await _one(
                connection,
                "UPDATE api_keys k SET expires_at = least(coalesce(k.expires_at, %s), %s) "
                f"WHERE k.id = %s RETURNING {_KEY}",
                ends_at,
                ends_at,
                id_,
            )
            await _announce(connection, "api_key", id_)
            return made, _found(_api_key, row)

    async def owner(self, secret_sha256: bytes) -> KeyOwner | None:
        """See ports.Store. One round trip, one row by a unique index and two by primary key."""
        async with transaction(self._pool) as connection:
            row = await _one(
                connection,
                f"SELECT {_KEY}, {_ENVIRONMENT}, {_ORG} FROM api_keys k JOIN environments e ON e.id = k.environment_id "
                "JOIN orgs o ON o.id = k.org_id WHERE k.secret_sha256 = %s",
                secret_sha256,
            )
        return None if row is None else KeyOwner(_api_key(row[:11]), _environment(row[11:19]), _org(row[19:]))


async def _one(connection: Connection, query: LiteralString, *values: object) -> TupleRow | None:
    cursor = await connection.execute(query, values)
    return await cursor.fetchone()


def _found(make: Callable[[TupleRow], Row], row: TupleRow | None) -> Row:
    if row is None:
        raise CodedError(ErrorCode.NOT_FOUND)
    return make(row)


async def _insert_key(connection: Connection, key: ApiKey, secret_sha256: bytes) -> ApiKey:
    row = await _one(
        connection,
        "INSERT INTO api_keys AS k (id, org_id, environment_id, name, kind, status, secret_sha256, hint, "
        f"allowed_models, expires_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING {_KEY}",
        key.id,
        key.org_id,
        key.environment_id,
        key.name,
        key.kind,
        key.status,
        secret_sha256,
        key.hint,
        list(key.allowed_models),
        key.expires_at,
    )
    return _found(_api_key, row)


async def _lock_living_key(connection: Connection, id_: str) -> None:
    row = await _one(connection, "SELECT status FROM api_keys WHERE id = %s FOR UPDATE", id_)
    if row is None:
        raise CodedError(ErrorCode.NOT_FOUND)
    if row[0] == "revoked":
        raise CodedError(ErrorCode.CONFLICT, "The key is revoked for good: create a new one.")


async def _announce(connection: Connection, scope: str, id_: str) -> None:
    """Tells every replica, in the same transaction: what is announced did happen, and what happened is announced."""
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, f"{scope}:{id_}"))


async def _made_before(connection: Connection, request_id: str, object_id: str, content_sha256: bytes) -> UUID | None:
    """The object that this request made before; else notes that it makes `object_id` now.

    The same request running twice at once waits here for the other to commit. Raises INVALID_ARGUMENT for another
    request with the same id.
    """
    if not request_id:
        return None
    await connection.execute("DELETE FROM create_requests WHERE created_at < now() - interval '24 hours'")
    row = await _one(
        connection,
        "INSERT INTO create_requests (request_id, object_id, content_sha256) VALUES (%s, %s, %s) "
        "ON CONFLICT (request_id) DO NOTHING RETURNING object_id",
        request_id,
        object_id,
        content_sha256,
    )
    if row is not None:
        return None
    before = await _one(
        connection, "SELECT object_id, content_sha256 FROM create_requests WHERE request_id = %s", request_id
    )
    if before is None:
        # It expired in between, under the hands of another request.
        raise CodedError(ErrorCode.UNAVAILABLE, private="create request vanished", retry_after_s=1.0)
    if before[1] != content_sha256:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`request_id` was used for another request.", param="request_id")
    found: UUID = before[0]
    return found


def _name_taken(name: str) -> CodedError:
    return CodedError(ErrorCode.ALREADY_EXISTS, f"The organisation has an environment named {name!r} already.")
