"""All SQL of model upgrades."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import cast

from psycopg import errors
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_registry.store import CATALOGUE_CHANNEL
from crosslogic_registry.upgrades import policy
from crosslogic_registry.upgrades.domain import UNDER_WAY, Counts, Outcomes, Phase, Rules, Share, Upgrade, Wish
from crosslogic_registry.upgrades.ports import Decide, OutcomeKey

_UPGRADE = (
    "number, id, model, from_version, to_version, phase, step, reason, rules, created_at, changed_at, "
    "extract(epoch FROM clock_timestamp() - changed_at)"
)


def _upgrade(row: TupleRow) -> Upgrade:
    rules = dict(row[8])
    return Upgrade(
        number=row[0],
        id=str(row[1]),
        model=row[2],
        from_version=row[3],
        to_version=row[4],
        phase=cast("Phase", row[5]),
        step=row[6],
        reason=row[7],
        rules=Rules(**{**rules, "steps_percent": tuple(rules["steps_percent"])}),
        created_at=row[9],
        changed_at=row[10],
        for_s=max(float(row[11]), 0.0),
    )


async def _outcomes(connection: Connection, upgrades: Sequence[Upgrade]) -> list[Outcomes]:
    """What was seen of each."""
    cursor = await connection.execute(
        "SELECT upgrade_id, step, is_new, succeeded, failed, first_bytes, first_byte_us FROM model_upgrade_outcomes "
        "WHERE upgrade_id = ANY(%s::uuid[])",
        ([upgrade.id for upgrade in upgrades],),
    )
    seen: dict[str, list[TupleRow]] = {}
    for row in await cursor.fetchall():
        seen.setdefault(str(row[0]), []).append(row)
    return [_told(upgrade.step, seen.get(upgrade.id, ())) for upgrade in upgrades]


def _told(step: int, rows: Sequence[TupleRow]) -> Outcomes:
    new = old = old_in_all = Counts()
    for row in rows:
        counts = Counts(*row[3:7])
        if row[2]:
            new = counts if row[1] == step else new
            continue
        old = counts if row[1] == step else old
        old_in_all += counts
    return Outcomes(new=new, old=old, old_in_all=old_in_all)


async def _let_serve(connection: Connection, model: str, shares: Sequence[Share]) -> None:
    """Has schedulers told which versions serve."""
    await connection.execute(
        "UPDATE models SET version_shares = %s WHERE name = %s", (Jsonb([asdict(share) for share in shares]), model)
    )
    await connection.execute("SELECT pg_notify(%s, '')", (CATALOGUE_CHANNEL,))


class PostgresUpgrades:
    """Upgrades in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def start(self, upgrade_id: str, wish: Wish) -> Upgrade:
        """Starts one, or finds the one with this id."""
        try:
            async with transaction(self._pool) as connection:
                # In the order in which moving takes its locks: the upgrade, then the model.
                cursor = await connection.execute(
                    "SELECT 1 FROM model_upgrades WHERE model = %s AND phase = ANY(%s) FOR NO KEY UPDATE",
                    (wish.model, list(UNDER_WAY)),
                )
                under_way = await cursor.fetchone() is not None
                serving = await self._serving(connection, wish.model)
                cursor = await connection.execute(f"SELECT {_UPGRADE} FROM model_upgrades WHERE id = %s", (upgrade_id,))
                row = await cursor.fetchone()
                if row is not None:
                    return policy.check_same(_upgrade(row), wish)
                if under_way:
                    raise _under_way()
                cursor = await connection.execute(
                    "INSERT INTO model_upgrades (id, model, from_version, to_version, phase, reason, rules) "
                    f"VALUES (%s, %s, %s, %s, 'waiting', 'started', %s) RETURNING {_UPGRADE}",
                    (
                        *(upgrade_id, wish.model, policy.version_before(wish, serving)),
                        *(wish.to_version, Jsonb(asdict(wish.rules))),
                    ),
                )
                upgrade = _upgrade(cast("TupleRow", await cursor.fetchone()))
                await _let_serve(connection, wish.model, policy.shares(upgrade))
        except errors.UniqueViolation:
            raise _under_way() from None
        return upgrade

    @staticmethod
    async def _serving(connection: Connection, model: str) -> str | None:
        """The version that serves, by the catalogue; None: any. Raises NOT_FOUND. One upgrade starts at a time."""
        cursor = await connection.execute(
            "SELECT version_shares FROM models WHERE name = %s FOR NO KEY UPDATE", (model,)
        )
        row = await cursor.fetchone()
        if row is None:
            raise CodedError(ErrorCode.NOT_FOUND, "The catalogue has no such model.", param="model")
        return str(row[0][0]["version"]) if row[0] else None

    async def get(self, upgrade_id: str) -> tuple[Upgrade, Outcomes]:
        """One with what was seen."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(f"SELECT {_UPGRADE} FROM model_upgrades WHERE id = %s", (upgrade_id,))
            row = await cursor.fetchone()
            if row is None:
                raise _unknown()
            upgrade = _upgrade(row)
            return upgrade, (await _outcomes(connection, [upgrade]))[0]

    async def page(self, model: str, *, before: int, limit: int) -> list[tuple[Upgrade, Outcomes]]:
        """Newest first."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_UPGRADE} FROM model_upgrades WHERE (%s = '' OR model = %s) AND (%s = 0 OR number < %s) "
                "ORDER BY number DESC LIMIT %s",
                (model, model, before, before, limit),
            )
            upgrades = [_upgrade(row) for row in await cursor.fetchall()]
            return list(zip(upgrades, await _outcomes(connection, upgrades), strict=True))

    async def under_way(self) -> list[Upgrade]:
        """Those that have not ended."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {_UPGRADE} FROM model_upgrades WHERE phase = ANY(%s) ORDER BY number", (list(UNDER_WAY),)
            )
            return [_upgrade(row) for row in await cursor.fetchall()]

    async def add_outcomes(self, seen: Mapping[OutcomeKey, Counts]) -> None:
        """Adds what was seen at the step that each upgrade is at."""
        async with transaction(self._pool) as connection, connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO model_upgrade_outcomes AS kept "
                "(upgrade_id, step, is_new, succeeded, failed, first_bytes, first_byte_us) "
                "SELECT id, step, %s, %s, %s, %s, %s FROM model_upgrades WHERE id = %s AND phase = ANY(%s) "
                "ON CONFLICT (upgrade_id, step, is_new) DO UPDATE SET succeeded = kept.succeeded + excluded.succeeded, "
                "failed = kept.failed + excluded.failed, first_bytes = kept.first_bytes + excluded.first_bytes, "
                "first_byte_us = kept.first_byte_us + excluded.first_byte_us",
                [
                    (
                        *(is_new, counts.succeeded, counts.failed, counts.first_bytes, counts.first_byte_us),
                        *(upgrade_id, list(UNDER_WAY)),
                    )
                    # In one order, so that two replicas do not wait for each other.
                    for (upgrade_id, is_new), counts in sorted(seen.items(), key=lambda item: item[0])
                ],
            )

    async def move(self, upgrade_id: str, decide: Decide, *, wait: bool) -> Upgrade | None:
        """Moves an upgrade to where `decide` says, and the catalogue with it, or neither."""
        async with transaction(self._pool) as connection:
            locked = "FOR NO KEY UPDATE" if wait else "FOR NO KEY UPDATE SKIP LOCKED"
            cursor = await connection.execute(
                f"SELECT {_UPGRADE} FROM model_upgrades WHERE id = %s {locked}", (upgrade_id,)
            )
            row = await cursor.fetchone()
            if row is None:
                if wait:
                    raise _unknown()
                return None
            upgrade = _upgrade(row)
            move = decide(upgrade, (await _outcomes(connection, [upgrade]))[0])
            if move is None:
                return None
            moved = policy.after(upgrade, move)
            cursor = await connection.execute(
                "UPDATE model_upgrades SET phase = %s, step = %s, reason = %s, changed_at = clock_timestamp() "
                f"WHERE id = %s RETURNING {_UPGRADE}",
                (move.phase, move.step, move.reason, upgrade_id),
            )
            if policy.shares(moved) != policy.shares(upgrade):
                await _let_serve(connection, upgrade.model, policy.shares(moved))
            return _upgrade(cast("TupleRow", await cursor.fetchone()))


def _under_way() -> CodedError:
    return CodedError(ErrorCode.CONFLICT, "An upgrade of this model is under way.", param="model")


def _unknown() -> CodedError:
    return CodedError(ErrorCode.NOT_FOUND, "There is no such upgrade.")
