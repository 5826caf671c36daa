"""All SQL of the registry."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import LiteralString, cast

from psycopg import errors
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_registry.domain import NodeEvent, Status, StatusChange, StoredNode
from crosslogic_registry.policy import MAX_MODELS

CATALOGUE_CHANNEL = "registry_catalogue"
NODES_CHANNEL = "registry_nodes"
"""Payload: `<origin>:<node id>,<node id>,...`: who changed which nodes."""
_IDS_A_NOTICE = 200  # a payload is at most 8,000 bytes

ENTRY: LiteralString = (
    "name, family, context_length, vram_required_bytes, prompt_price_picodollars, completion_price_picodollars, regions"
)
"""What the catalogue's row tells of a model itself; `entry_of` reads it."""
_MODEL: LiteralString = f"{ENTRY}, created_at, deployments, version_shares"
_NODE = "id, org_id, status, status_reason, drain_asked, facts, created_at, changed_at"


def entry_of(row: TupleRow) -> pb.Model:
    """A model from a row that begins with the columns of `ENTRY`."""
    return pb.Model(
        name=row[0],
        family=row[1],
        context_length=row[2],
        vram_required_bytes=row[3],
        prompt_price_picodollars=row[4],
        completion_price_picodollars=row[5],
        regions=row[6],
    )


def _model(row: TupleRow) -> pb.Model:
    model = entry_of(row)
    model.create_time.CopyFrom(timestamp(row[7]))
    model.deployments.extend(pb.Deployment(region=each["region"], strategy=each["strategy"]) for each in row[8])
    model.version_shares.extend(
        pb.VersionShare(version=each["version"], per_mille=each["per_mille"]) for each in row[9]
    )
    return model


def _deployments(deployments: Sequence[pb.Deployment]) -> Jsonb:
    return Jsonb([{"region": each.region, "strategy": int(each.strategy)} for each in deployments])


def _node(row: TupleRow) -> StoredNode:
    return StoredNode(
        id=str(row[0]),
        org_id=str(row[1]) if row[1] else "",
        status=cast("Status", row[2]),
        status_reason=row[3],
        drain_asked=row[4],
        facts=pb.NodeFacts.FromString(row[5]),
        created_at=row[6],
        changed_at=row[7],
    )


async def _tell_replicas(connection: Connection, origin: str, node_ids: Sequence[str]) -> None:
    for start in range(0, len(node_ids), _IDS_A_NOTICE):
        payload = f"{origin}:{','.join(node_ids[start : start + _IDS_A_NOTICE])}"
        await connection.execute("SELECT pg_notify(%s, %s)", (NODES_CHANNEL, payload))


async def _joined_before(connection: Connection, token_sha256: bytes, key_sha256: bytes, now: datetime) -> StoredNode:
    cursor = await connection.execute(
        f"SELECT {_NODE} FROM nodes WHERE id = (SELECT node_id FROM join_tokens "
        "WHERE token_sha256 = %s AND used_by_key_sha256 = %s AND expires_at > %s)",
        (token_sha256, key_sha256, now),
    )
    row = await cursor.fetchone()
    if row is None:
        raise CodedError(ErrorCode.JOIN_TOKEN_INVALID)
    return _node(row)


class PostgresStore:
    """The fleet in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add_join_token(
        self, token_sha256: bytes, org_id: str, expires_at: datetime, *, node_id: str = ""
    ) -> None:
        """Keeps a token; forgets those that ended a week ago."""
        async with transaction(self._pool) as connection:
            await connection.execute("DELETE FROM join_tokens WHERE expires_at < now() - interval '7 days'")
            await connection.execute(
                "INSERT INTO join_tokens (token_sha256, org_id, expires_at, node_id) VALUES (%s, %s, %s, %s)",
                (token_sha256, org_id or None, expires_at, node_id or None),
            )

    async def consume_join_token(
        self, token_sha256: bytes, node_id: str, now: datetime, *, key_sha256: bytes, origin: str
    ) -> StoredNode:
        """Uses a token up and makes its node, both or neither, or gives the node that it made for the same key."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE join_tokens SET used_at = %s, used_by_key_sha256 = %s, node_id = coalesce(node_id, %s) "
                "WHERE token_sha256 = %s AND used_at IS NULL AND expires_at > %s RETURNING org_id, node_id",
                (now, key_sha256, node_id, token_sha256, now),
            )
            row = await cursor.fetchone()
            if row is None:
                return await _joined_before(connection, token_sha256, key_sha256, now)
            org_id, node_id = row[0], str(row[1])
            cursor = await connection.execute(
                "INSERT INTO nodes (id, org_id, status, status_reason, created_at, changed_at) "
                f"VALUES (%s, %s, 'registering', 'joined', %s, %s) ON CONFLICT (id) DO NOTHING RETURNING {_NODE}",
                (node_id, org_id, now, now),
            )
            made = await cursor.fetchone()
            if made is None:
                raise CodedError(ErrorCode.JOIN_TOKEN_INVALID, private=f"node {node_id} has joined before")
            await connection.execute(
                "INSERT INTO node_events (node_id, status, reason, at) VALUES (%s, 'registering', 'joined', %s)",
                (node_id, now),
            )
            await _tell_replicas(connection, origin, [node_id])
        return _node(made)

    async def nodes(self, *, dead_within_s: float) -> list[StoredNode]:
        """All nodes by id, without those that have been dead for longer than `dead_within_s`."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_NODE} FROM nodes "
                "WHERE status <> 'dead' OR changed_at > now() - %s * interval '1 second' ORDER BY id",
                (dead_within_s,),
            )
            return [_node(row) for row in await cursor.fetchall()]

    async def nodes_by_id(self, node_ids: Sequence[str]) -> list[StoredNode]:
        """The nodes of these that are known, dead ones too."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_NODE} FROM nodes WHERE id = ANY(%s::uuid[]) ORDER BY id", (list(node_ids),)
            )
            return [_node(row) for row in await cursor.fetchall()]

    async def save(self, changes: Sequence[StatusChange], facts: Mapping[str, pb.NodeFacts], *, origin: str) -> None:
        """Keeps changes of status in order and what nodes are (by node id), all or nothing."""
        async with transaction(self._pool) as connection, connection.cursor() as cursor:
            if changes:
                await cursor.executemany(
                    "WITH moved AS (UPDATE nodes SET status = %s, status_reason = %s, changed_at = %s "
                    "WHERE id = %s AND status <> %s RETURNING id, status, status_reason, changed_at) "
                    "INSERT INTO node_events (node_id, status, reason, at) SELECT * FROM moved",
                    [(change.status, change.reason, change.at, change.node_id, change.status) for change in changes],
                )
            if facts:
                await cursor.executemany(
                    "UPDATE nodes SET facts = %s WHERE id = %s",
                    [(said.SerializeToString(), node_id) for node_id, said in facts.items()],
                )
            await _tell_replicas(
                connection, origin, list({change.node_id: None for change in changes} | dict.fromkeys(facts))
            )

    async def events(self, node_id: str, *, before: int, limit: int) -> list[NodeEvent]:
        """A node's life, newest first: at most `limit` events older than the one numbered `before` (0: the newest)."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT id, status, reason, at FROM node_events WHERE node_id = %s AND (%s = 0 OR id < %s) "
                "ORDER BY id DESC LIMIT %s",
                (node_id, before, before, limit),
            )
            return [NodeEvent(row[0], cast("Status", row[1]), row[2], row[3]) for row in await cursor.fetchall()]

    async def ask_drain(self, node_id: str, *, drain: bool, origin: str) -> bool:
        """Keeps whether an operator wants the node drained. False: there is no such node."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute("UPDATE nodes SET drain_asked = %s WHERE id = %s", (drain, node_id))
            if cursor.rowcount == 0:
                return False
            await _tell_replicas(connection, origin, [node_id])
        return True

    async def add_model(self, model: pb.Model) -> pb.Model:
        """Adds a model. Raises ALREADY_EXISTS; CONFLICT when the catalogue is full."""
        try:
            async with transaction(self._pool) as connection:
                cursor = await connection.execute("SELECT count(*) FROM models")
                if cast("TupleRow", await cursor.fetchone())[0] >= MAX_MODELS:
                    raise CodedError(ErrorCode.CONFLICT, f"The catalogue holds {MAX_MODELS} models already.")
                cursor = await connection.execute(
                    "INSERT INTO models (name, family, context_length, vram_required_bytes, prompt_price_picodollars, "
                    f"completion_price_picodollars, regions, deployments) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) "
                    f"RETURNING {_MODEL}",
                    (
                        model.name,
                        model.family,
                        model.context_length,
                        model.vram_required_bytes,
                        model.prompt_price_picodollars,
                        model.completion_price_picodollars,
                        list(model.regions),
                        _deployments(model.deployments),
                    ),
                )
                row = await cursor.fetchone()
                await connection.execute("SELECT pg_notify(%s, '')", (CATALOGUE_CHANNEL,))
        except errors.UniqueViolation:
            raise CodedError(
                ErrorCode.ALREADY_EXISTS, f"The catalogue has a model named {model.name!r} already.", param="name"
            ) from None
        return _model(cast("TupleRow", row))

    async def replace_deployments(self, name: str, deployments: Sequence[pb.Deployment]) -> pb.Model:
        """Puts a model's deployments in place of those it had. Raises NOT_FOUND."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"UPDATE models SET deployments = %s WHERE name = %s RETURNING {_MODEL}",
                (_deployments(deployments), name),
            )
            row = await cursor.fetchone()
            if row is None:
                raise CodedError(ErrorCode.NOT_FOUND, "The catalogue has no such model.", param="model")
            await connection.execute("SELECT pg_notify(%s, '')", (CATALOGUE_CHANNEL,))
        return _model(row)

    async def models(self, after: str = "", limit: int = 10_000) -> list[pb.Model]:
        """What is on offer by name (code points), after a name."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f'SELECT {_MODEL} FROM models WHERE offered AND name COLLATE "C" > %s '
                'ORDER BY name COLLATE "C" LIMIT %s',
                (after, limit),
            )
            return [_model(row) for row in await cursor.fetchall()]
