"""All SQL of settling usage."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from crosslogic_billing.usage.domain import Bucket
from crosslogic_common.postgres import Pool, transaction


class PostgresUsage:
    """Windows and the cursor in PostgreSQL. Implements ports.UsageStore."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def cursor(self, name: str = "usage") -> int:
        """See ports.UsageStore; also of another reader of the ledger."""
        async with transaction(self._pool) as connection:
            found = await connection.execute("SELECT sequence FROM ledger_cursor WHERE name = %s", (name,))
            row = await found.fetchone()
        return 0 if row is None else int(row[0])

    async def move(self, name: str, *, after: int, upto: int) -> bool:
        """Moves another reader's cursor. False: somebody else has moved it."""
        async with transaction(self._pool) as connection:
            moved = await connection.execute(
                "UPDATE ledger_cursor SET sequence = %s WHERE name = %s AND sequence = %s", (upto, name, after)
            )
            return moved.rowcount == 1

    async def categories(self, version_ids: Sequence[str]) -> dict[str, str]:
        """See ports.UsageStore."""
        async with transaction(self._pool) as connection:
            # As text: a record may carry what is no UUID.
            found = await connection.execute(
                "SELECT id::text, category FROM price_versions WHERE id::text = ANY(%s)", (list(version_ids),)
            )
            return {str(id_): str(category) for id_, category in await found.fetchall()}

    async def add(
        self,
        *,
        after: int,
        upto: int,
        counted: Mapping[Bucket, int],
        uncharged: Mapping[tuple[str, datetime], int],
        window_s: int,
    ) -> bool:
        """See ports.UsageStore."""
        # In one order, so that two replicas wait for each other and never each for the other.
        buckets = sorted(counted)
        async with transaction(self._pool, timeout_s=30.0) as connection:
            moved = await connection.execute(
                "UPDATE ledger_cursor SET sequence = %s WHERE name = 'usage' AND sequence = %s", (upto, after)
            )
            if moved.rowcount != 1:
                return False
            if buckets:
                await connection.execute(
                    "INSERT INTO window_usage AS w (org_id, window_start, length_s, model, category, price, tokens) "
                    "SELECT u.org_id, u.window_start, %s, u.model, u.category, u.price, u.tokens FROM unnest("
                    "%s::uuid[], %s::timestamptz[], %s::text[], %s::text[], %s::bigint[], %s::bigint[]) "
                    "AS u (org_id, window_start, model, category, price, tokens) "
                    "ON CONFLICT (org_id, window_start, length_s, model, category, price) "
                    "DO UPDATE SET tokens = w.tokens + excluded.tokens",
                    (
                        window_s,
                        [bucket.org_id for bucket in buckets],
                        [bucket.window_start for bucket in buckets],
                        [bucket.model for bucket in buckets],
                        [bucket.category for bucket in buckets],
                        [bucket.price for bucket in buckets],
                        [counted[bucket] for bucket in buckets],
                    ),
                )
            if uncharged:
                keys = sorted(uncharged)
                await connection.execute(
                    "INSERT INTO uncharged_usage AS w (org_id, window_start, tokens) "
                    "SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::bigint[]) "
                    "ON CONFLICT (org_id, window_start) DO UPDATE SET tokens = w.tokens + excluded.tokens",
                    ([org for org, _ in keys], [start for _, start in keys], [uncharged[key] for key in keys]),
                )
        return True
