"""All SQL of the registry."""

from dataclasses import dataclass
from datetime import datetime
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp
from psycopg import errors
from psycopg.rows import TupleRow

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Pool, transaction
from crosslogic_registry.policy import Status

CATALOGUE_CHANNEL = "registry_catalogue"

_MODEL = (
    "name, family, context_length, vram_required_bytes, prompt_price_picodollars, completion_price_picodollars, "
    "regions, created_at"
)


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A node as the database keeps it."""

    id: str
    org_id: str
    status: Status
    status_reason: str
    drain_asked: bool
    facts: pb.NodeFacts
    created_at: datetime


def _model(row: TupleRow) -> pb.Model:
    created = Timestamp()
    created.FromDatetime(row[7])
    return pb.Model(
        name=row[0],
        family=row[1],
        context_length=row[2],
        vram_required_bytes=row[3],
        prompt_price_picodollars=row[4],
        completion_price_picodollars=row[5],
        regions=row[6],
        create_time=created,
    )


def _node(row: TupleRow) -> StoredNode:
    return StoredNode(
        id=str(row[0]),
        org_id=str(row[1]) if row[1] else "",
        status=cast("Status", row[2]),
        status_reason=row[3],
        drain_asked=row[4],
        facts=pb.NodeFacts.FromString(row[5]),
        created_at=row[6],
    )


class PostgresStore:
    """The fleet in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add_join_token(self, token_sha256: bytes, org_id: str, expires_at: datetime) -> None:
        """Keeps a token; forgets those that ended a week ago."""
        async with transaction(self._pool) as connection:
            await connection.execute("DELETE FROM join_tokens WHERE expires_at < now() - interval '7 days'")
            await connection.execute(
                "INSERT INTO join_tokens (token_sha256, org_id, expires_at) VALUES (%s, %s, %s)",
                (token_sha256, org_id or None, expires_at),
            )

    async def consume_join_token(self, token_sha256: bytes, node_id: str, now: datetime) -> StoredNode:
        """Uses a token up and makes its node, both or neither. Raises JOIN_TOKEN_INVALID."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE join_tokens SET used_at = %s WHERE token_sha256 = %s AND used_at IS NULL AND expires_at > %s "
                "RETURNING org_id",
                (now, token_sha256, now),
            )
            row = await cursor.fetchone()
            if row is None:
                raise CodedError(ErrorCode.JOIN_TOKEN_INVALID)
            cursor = await connection.execute(
                "INSERT INTO nodes (id, org_id, status, status_reason) VALUES (%s, %s, 'registering', 'joined') "
                "RETURNING id, org_id, status, status_reason, drain_asked, facts, created_at",
                (node_id, row[0]),
            )
            made = await cursor.fetchone()
            await connection.execute(
                "INSERT INTO node_events (node_id, status, reason) VALUES (%s, 'registering', 'joined')", (node_id,)
            )
        return _node(cast("TupleRow", made))

    async def nodes(self) -> list[StoredNode]:
        """The nodes that are not dead for more than a day, oldest first."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT id, org_id, status, status_reason, drain_asked, facts, created_at FROM nodes "
                "WHERE status <> 'dead' OR changed_at > now() - interval '1 day' ORDER BY id"
            )
            return [_node(row) for row in await cursor.fetchall()]

    async def save_status(self, node_id: str, status: Status, reason: str) -> None:
        """Keeps a change of status with its reason."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE nodes SET status = %s, status_reason = %s, changed_at = now() WHERE id = %s",
                (status, reason, node_id),
            )
            await connection.execute(
                "INSERT INTO node_events (node_id, status, reason) VALUES (%s, %s, %s)", (node_id, status, reason)
            )

    async def save_facts(self, node_id: str, facts: pb.NodeFacts) -> None:
        """Keeps what a node said it is."""
        async with transaction(self._pool) as connection:
            await connection.execute("UPDATE nodes SET facts = %s WHERE id = %s", (facts.SerializeToString(), node_id))

    async def ask_drain(self, node_id: str) -> None:
        """Keeps that an operator wants the node drained."""
        async with transaction(self._pool) as connection:
            await connection.execute("UPDATE nodes SET drain_asked = true WHERE id = %s", (node_id,))

    async def add_model(self, model: pb.Model) -> pb.Model:
        """Adds a model. Raises ALREADY_EXISTS."""
        try:
            async with transaction(self._pool) as connection:
                cursor = await connection.execute(
                    "INSERT INTO models (name, family, context_length, vram_required_bytes, prompt_price_picodollars, "
                    f"completion_price_picodollars, regions) VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING {_MODEL}",
                    (
                        model.name,
                        model.family,
                        model.context_length,
                        model.vram_required_bytes,
                        model.prompt_price_picodollars,
                        model.completion_price_picodollars,
                        list(model.regions),
                    ),
                )
                row = await cursor.fetchone()
                await connection.execute("SELECT pg_notify(%s, '')", (CATALOGUE_CHANNEL,))
        except errors.UniqueViolation:
            raise CodedError(
                ErrorCode.ALREADY_EXISTS, f"The catalogue has a model named {model.name!r} already.", param="name"
            ) from None
        return _model(cast("TupleRow", row))

    async def models(self, after: str = "", limit: int = 10_000) -> list[pb.Model]:
        """The catalogue, by name, after a name."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_MODEL} FROM models WHERE name > %s ORDER BY name LIMIT %s", (after, limit)
            )
            return [_model(row) for row in await cursor.fetchall()]
