"""From when to when nodes were there: read from what became of them, which is kept for ever."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.postgres import Pool, transaction


@dataclass(frozen=True, slots=True)
class Life:
    """One time that a node was there."""

    begins: datetime
    ends: datetime | None
    """None: it is there."""


@dataclass(frozen=True, slots=True)
class NodeLives:
    """A node and its lives."""

    node_id: str
    facts: pb.NodeFacts
    lives: tuple[Life, ...]


def lives_of(changes: Iterable[tuple[bool, datetime]]) -> list[Life]:
    """Lives from a node's changes in order: whether it was dead from then on, and when that was."""
    lives: list[Life] = []
    began: datetime | None = None
    for dead, at in changes:
        if began is None and not dead:
            began = at
        elif began is not None and dead:
            if at > began:
                lives.append(Life(began, at))
            began = None
    return lives if began is None else [*lives, Life(began, None)]


class PostgresLives:
    """All SQL of it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, *, after: str, since: datetime | None, limit: int) -> list[NodeLives]:
        """Nodes by id after one, with their lives that had not ended before `since` (None: all)."""
        async with transaction(self._pool) as connection:
            found = await connection.execute(
                "SELECT id, facts FROM nodes WHERE id > %s "
                "AND (status <> 'dead' OR %s::timestamptz IS NULL OR changed_at >= %s) ORDER BY id LIMIT %s",
                (after, since, since, limit),
            )
            nodes = {str(row[0]): pb.NodeFacts.FromString(row[1]) for row in await found.fetchall()}
            found = await connection.execute(
                "SELECT node_id, status = 'dead', at FROM node_events WHERE node_id = ANY(%s::uuid[]) ORDER BY id",
                (list(nodes),),
            )
            changes: dict[str, list[tuple[bool, datetime]]] = {node_id: [] for node_id in nodes}
            for node_id, dead, at in await found.fetchall():
                changes[str(node_id)].append((dead, at))
        return [
            NodeLives(
                node_id,
                facts,
                tuple(
                    life
                    for life in lives_of(changes[node_id])
                    if since is None or life.ends is None or life.ends >= since
                ),
            )
            for node_id, facts in nodes.items()
        ]
