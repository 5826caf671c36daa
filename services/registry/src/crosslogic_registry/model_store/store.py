"""All SQL of the model store."""

from collections.abc import Mapping, Sequence
from typing import cast

from psycopg.rows import TupleRow

from crosslogic.registry.v1 import registry_pb2
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_model_store.manifest import Manifest, parse_manifest
from crosslogic_registry.model_store.domain import Environment, Registration, Target, Terms, Version
from crosslogic_registry.model_store.policy import check_same, terms_after
from crosslogic_registry.policy import MAX_MODELS
from crosslogic_registry.store import CATALOGUE_CHANNEL, ENTRY, entry_of

_GRANT_DAYS = 30
_VERSION = "number, manifest, created_at"
_REGISTRATION = "r.name, r.model, r.environment, r.version, m.offered, r.endpoint, r.changed_at, v.manifest"
_FROM = (
    "model_registrations r JOIN models m ON m.name = r.name "
    "LEFT JOIN model_versions v ON v.model = r.model AND v.version = r.version"
)


def _version(row: TupleRow) -> Version:
    return Version(row[0], parse_manifest(bytes(row[1])), row[2])


def _registration(row: TupleRow) -> Registration:
    return Registration(
        name=row[0],
        model=row[1],
        environment=cast("Environment", row[2]),
        version=row[3],
        enabled=row[4],
        endpoint=row[5],
        changed_at=row[6],
        licence=parse_manifest(bytes(row[7])).facts.licence if row[7] is not None else "",
    )


class PostgresModelStore:
    """The model store in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add_version(self, manifest: Manifest) -> Version:
        """See ports.ModelStoreStore."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "INSERT INTO model_versions (model, version, manifest) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (manifest.model, manifest.revision, manifest.to_json()),
            )
            cursor = await connection.execute(
                f"SELECT {_VERSION} FROM model_versions WHERE model = %s AND version = %s",
                (manifest.model, manifest.revision),
            )
            return _version(cast("TupleRow", await cursor.fetchone()))

    async def version(self, model: str, version: str) -> Version | None:
        """See ports.ModelStoreStore."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_VERSION} FROM model_versions WHERE model = %s AND version = %s", (model, version)
            )
            row = await cursor.fetchone()
            return _version(row) if row else None

    async def versions(self, model: str, *, before: int, limit: int) -> list[Version]:
        """See ports.ModelStoreStore."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_VERSION} FROM model_versions WHERE (%s = '' OR model = %s) AND (%s = 0 OR number < %s) "
                "ORDER BY number DESC LIMIT %s",
                (model, model, before, before, limit),
            )
            return [_version(row) for row in await cursor.fetchall()]

    async def grant(self, node_id: str, model: str, version: str) -> None:
        """See ports.ModelStoreStore. Forgets grants whose nodes have been dead or absent for a month."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "DELETE FROM weight_grants g WHERE created_at < now() - %s * interval '1 day' AND NOT EXISTS "
                "(SELECT FROM nodes n WHERE n.id = g.node_id AND n.status <> 'dead')",
                (_GRANT_DAYS,),
            )
            await connection.execute(
                "INSERT INTO weight_grants (node_id, model, version) VALUES (%s, %s, %s) "
                "ON CONFLICT (node_id) DO UPDATE SET model = excluded.model, version = excluded.version, "
                "created_at = now()",
                (node_id, model, version),
            )

    async def granted(self, node_id: str) -> Version | None:
        """See ports.ModelStoreStore."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT v.number, v.manifest, v.created_at FROM weight_grants g "
                "JOIN model_versions v ON v.model = g.model AND v.version = g.version WHERE g.node_id = %s",
                (node_id,),
            )
            row = await cursor.fetchone()
            return _version(row) if row else None

    async def register(
        self, entry: registry_pb2.Model, *, model: str, environment: Environment, version: str, endpoint: str
    ) -> Registration:
        """See ports.ModelStoreStore."""
        async with transaction(self._pool) as connection:
            await _put_entry(connection, entry)
            await connection.execute(
                "INSERT INTO model_registrations (name, model, environment, version, endpoint) "
                "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (name) DO UPDATE SET version = excluded.version, "
                "endpoint = excluded.endpoint, changed_at = now()",
                (entry.name, model, environment, version, endpoint),
            )
            await _note_version(connection, entry.name, version)
            await _tell(connection)
            return _registration(cast("TupleRow", await _find(connection, entry.name)))

    async def promote(self, source: Registration, target: Target, *, request_id: str) -> Registration:
        """See ports.ModelStoreStore."""
        name = target.name
        async with transaction(self._pool) as connection:
            entry = await _locked_entry(connection, source.name, name)
            if (done := await _done_before(connection, request_id, name)) is not None:
                return done
            await _check_unchanged(connection, {source.name: source, name: target.before})
            if entry is None:
                raise _changed(source.name)
            entry.name = name
            await _put_entry(connection, entry)
            cursor = await connection.execute(
                "INSERT INTO model_registrations (name, model, environment, version, endpoint) "
                "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (name) DO UPDATE SET version = excluded.version, "
                "endpoint = excluded.endpoint, changed_at = now() WHERE model_registrations.changed_at = %s",
                (
                    name,
                    source.model,
                    target.environment,
                    source.version,
                    source.endpoint,
                    target.before.changed_at if target.before else None,
                ),
            )
            if cursor.rowcount != 1:
                raise _changed(name)
            await _follow_version(connection, name, target.before.version if target.before else "")
            await _note_version(connection, name, source.version, request_id=request_id)
            await _tell(connection)
            return _registration(cast("TupleRow", await _find(connection, name)))

    async def carried_out(self, request_id: str) -> str | None:
        """See ports.ModelStoreStore."""
        async with transaction(self._pool) as connection:
            return await _carried_out(connection, request_id)

    async def registration(self, name: str) -> Registration | None:
        """See ports.ModelStoreStore."""
        async with transaction(self._pool) as connection:
            row = await _find(connection, name)
            return _registration(row) if row else None

    async def registrations(self, after: str, limit: int) -> list[Registration]:
        """See ports.ModelStoreStore."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f'SELECT {_REGISTRATION} FROM {_FROM} WHERE r.name COLLATE "C" > %s '
                'ORDER BY r.name COLLATE "C" LIMIT %s',
                (after, limit),
            )
            return [_registration(row) for row in await cursor.fetchall()]

    async def entry(self, name: str) -> registry_pb2.Model | None:
        """See ports.ModelStoreStore."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(f"SELECT {ENTRY} FROM models WHERE name = %s", (name,))
            row = await cursor.fetchone()
        return None if row is None else entry_of(row)

    async def deregister(self, name: str) -> bool:
        """See ports.ModelStoreStore. The catalogue's row stays for what refers to it, and is offered to nobody."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute("DELETE FROM model_registrations WHERE name = %s", (name,))
            if cursor.rowcount == 0:
                return False
            await connection.execute("UPDATE models SET offered = false WHERE name = %s", (name,))
            await _tell(connection)
            return True

    async def enable(self, name: str, *, enabled: bool) -> Registration | None:
        """See ports.ModelStoreStore."""
        async with transaction(self._pool) as connection:
            row = await _find(connection, name)
            if row is None:
                return None
            await connection.execute("UPDATE models SET offered = %s WHERE name = %s", (enabled, name))
            await connection.execute("UPDATE model_registrations SET changed_at = now() WHERE name = %s", (name,))
            await _tell(connection)
            return _registration(cast("TupleRow", await _find(connection, name)))

    async def roll_back(self, name: str, *, request_id: str) -> Registration:
        """See ports.ModelStoreStore."""
        async with transaction(self._pool) as connection:
            # In the order of all others: two that wait for each other would both fail.
            await connection.execute("SELECT FROM models WHERE name = %s FOR UPDATE", (name,))
            cursor = await connection.execute(
                "SELECT version FROM model_registrations WHERE name = %s FOR UPDATE", (name,)
            )
            row = await cursor.fetchone()
            if row is None:
                raise CodedError(ErrorCode.NOT_FOUND, f"{name} is not registered.", param="name")
            if (done := await _done_before(connection, request_id, name)) is not None:
                return done
            cursor = await connection.execute(
                "SELECT version FROM model_version_history WHERE name = %s AND version <> %s AND version <> '' "
                "ORDER BY number DESC LIMIT 1",
                (name, row[0]),
            )
            before = await cursor.fetchone()
            if before is None:
                raise CodedError(ErrorCode.CONFLICT, f"{name} had no other version before.")
            await connection.execute(
                "UPDATE model_registrations SET version = %s, changed_at = now() WHERE name = %s", (before[0], name)
            )
            await _follow_version(connection, name, row[0])
            await _note_version(connection, name, before[0], request_id=request_id)
            await _tell(connection)
            return _registration(cast("TupleRow", await _find(connection, name)))


async def _find(connection: Connection, name: str) -> TupleRow | None:
    cursor = await connection.execute(f"SELECT {_REGISTRATION} FROM {_FROM} WHERE r.name = %s", (name,))
    return await cursor.fetchone()


async def _locked_entry(connection: Connection, source: str, target: str) -> registry_pb2.Model | None:
    """What the catalogue tells of a model where it comes to; of one that is new there, where it comes from.

    Prices and regions of the target stay what they are now, whatever they were when its gates were tried.
    """
    cursor = await connection.execute(
        f"SELECT {ENTRY} FROM models WHERE name = ANY(%s) ORDER BY name FOR UPDATE", ([source, target],)
    )
    entries = {row[0]: entry_of(row) for row in await cursor.fetchall()}
    return entries.get(target) or entries.get(source)


async def _check_unchanged(connection: Connection, seen: Mapping[str, Registration | None]) -> None:
    """Holds what was `seen` of registered models as it is. Raises CONFLICT where it is not so any more."""
    cursor = await connection.execute(
        "SELECT name, version, endpoint, changed_at FROM model_registrations WHERE name = ANY(%s) "
        "ORDER BY name FOR UPDATE",
        (sorted(seen),),
    )
    now = {row[0]: tuple(row[1:]) for row in await cursor.fetchall()}
    for name, before in seen.items():
        if now.get(name) != (None if before is None else (before.version, before.endpoint, before.changed_at)):
            raise _changed(name)


def _changed(name: str) -> CodedError:
    return CodedError(ErrorCode.CONFLICT, f"Not promoted: {name} changed while the gates were tried. Promote again.")


async def _carried_out(connection: Connection, request_id: str) -> str | None:
    cursor = await connection.execute("SELECT name FROM model_version_history WHERE request_id = %s", (request_id,))
    row = await cursor.fetchone()
    return None if row is None else str(row[0])


async def _done_before(connection: Connection, request_id: str, name: str) -> Registration | None:
    """The model as it is now, if it was promoted to or went back under this id. Raises CONFLICT where another was."""
    known = await _carried_out(connection, request_id) if request_id else None
    if known is None:
        return None
    check_same(known, name)
    row = await _find(connection, name)
    if row is None:
        raise _changed(name)
    return _registration(row)


async def _put_entry(connection: Connection, entry: registry_pb2.Model) -> None:
    cursor = await connection.execute("SELECT count(*) FROM models WHERE name <> %s", (entry.name,))
    if cast("TupleRow", await cursor.fetchone())[0] >= MAX_MODELS:
        raise CodedError(ErrorCode.CONFLICT, f"The catalogue holds {MAX_MODELS} models already.")
    values: Sequence[object] = (
        entry.name,
        entry.family,
        entry.context_length,
        entry.vram_required_bytes,
        entry.prompt_price_picodollars,
        entry.completion_price_picodollars,
        list(entry.regions),
    )
    await connection.execute(
        f"INSERT INTO models ({ENTRY}) VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (name) DO UPDATE SET "
        "family = excluded.family, context_length = excluded.context_length, "
        "vram_required_bytes = excluded.vram_required_bytes, "
        "prompt_price_picodollars = excluded.prompt_price_picodollars, "
        "completion_price_picodollars = excluded.completion_price_picodollars, "
        # What an operator has disabled stays so when a version comes; what was taken out is offered anew.
        "regions = excluded.regions, offered = models.offered OR NOT EXISTS "
        "(SELECT FROM model_registrations r WHERE r.name = models.name)",
        values,
    )


async def _follow_version(connection: Connection, name: str, before: str) -> None:
    """The catalogue tells the context and memory of the version that a registration has now, and had not `before`."""
    row = cast("TupleRow", await _find(connection, name))
    cursor = await connection.execute(
        "SELECT manifest FROM model_versions WHERE model = %s AND version = %s", (row[1], before)
    )
    old = await cursor.fetchone()
    if row[7] is None:
        return
    cursor = await connection.execute("SELECT context_length, vram_required_bytes FROM models WHERE name = %s", (name,))
    told = cast("TupleRow", await cursor.fetchone())
    terms = terms_after(
        Terms(*told),
        parse_manifest(bytes(old[0])).facts if old is not None else None,
        parse_manifest(bytes(row[7])).facts,
    )
    await connection.execute(
        "UPDATE models SET context_length = %s, vram_required_bytes = %s WHERE name = %s",
        (terms.context_length, terms.vram_required_bytes, name),
    )


async def _note_version(connection: Connection, name: str, version: str, *, request_id: str = "") -> None:
    await connection.execute(
        "INSERT INTO model_version_history (name, version, request_id) VALUES (%s, %s, nullif(%s, '')::uuid)",
        (name, version, request_id),
    )


async def _tell(connection: Connection) -> None:
    await connection.execute("SELECT pg_notify(%s, '')", (CATALOGUE_CHANNEL,))
