"""Claims on the pool's machines, in PostgreSQL: one machine, one instance, whichever orchestrator asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from crosslogic_common.postgres import Pool, transaction


@dataclass(frozen=True, slots=True)
class Claim:
    """An instance's machine."""

    instance_id: str
    machine: str
    claimed_at: datetime
    started: bool
    """An agent was started there for it."""
    released: bool


class Claims(Protocol):
    """Keeps claims. Every method raises UNAVAILABLE while the store is away."""

    async def claim(self, instance_id: str, machines: Sequence[str], *, now: datetime) -> Claim | None:
        """The claim that the instance has, held or released, renewed; or a new one on the first that is free."""

    async def get(self, instance_id: str) -> Claim | None:
        """The claim that an instance has or had."""

    async def start(self, instance_id: str, *, now: datetime) -> None:
        """Notes that its agent runs."""

    async def release(self, instance_id: str, *, now: datetime) -> None:
        """Gives the machine back."""

    async def held(self) -> list[Claim]:
        """Claims that are not released."""


_CLAIM = "instance_id, machine, claimed_at, started_at IS NOT NULL, released_at IS NOT NULL"


class PostgresClaims:
    """See Claims."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def claim(self, instance_id: str, machines: Sequence[str], *, now: datetime) -> Claim | None:
        """See Claims."""
        async with transaction(self._pool) as connection:
            for machine in machines:
                # A name that is taken, and an instance that has one, both conflict.
                cursor = await connection.execute(
                    "INSERT INTO static_claims (instance_id, machine, claimed_at) VALUES (%s, %s, %s) "
                    "ON CONFLICT DO NOTHING",
                    (instance_id, machine, now),
                )
                if cursor.rowcount:
                    break
            await connection.execute(
                "UPDATE static_claims SET claimed_at = %s WHERE instance_id = %s AND released_at IS NULL",
                (now, instance_id),
            )
        return await self.get(instance_id)

    async def get(self, instance_id: str) -> Claim | None:
        """See Claims."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_CLAIM} FROM static_claims WHERE instance_id = %s",  # noqa: S608  # a constant
                (instance_id,),
            )
            row = await cursor.fetchone()
        return None if row is None else _claim(row)

    async def start(self, instance_id: str, *, now: datetime) -> None:
        """See Claims."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE static_claims SET started_at = %s WHERE instance_id = %s AND released_at IS NULL",
                (now, instance_id),
            )

    async def release(self, instance_id: str, *, now: datetime) -> None:
        """See Claims."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE static_claims SET released_at = %s WHERE instance_id = %s AND released_at IS NULL",
                (now, instance_id),
            )

    async def held(self) -> list[Claim]:
        """See Claims."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_CLAIM} FROM static_claims WHERE released_at IS NULL"  # noqa: S608  # a constant
            )
            return [_claim(row) for row in await cursor.fetchall()]


def _claim(row: tuple[UUID, str, datetime, bool, bool]) -> Claim:
    return Claim(str(row[0]), row[1], row[2], row[3], row[4])
