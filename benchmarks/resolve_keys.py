"""What it costs identity to say whose a key is, with few keys in the database and with many.

The same calls as behind ResolveApiKey: one query, the effective limits, the message. Keys are asked for in random
order, so that at 150,000 of them the row is seldom the one that was read before.
"""

import random
import statistics
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from psycopg import sql

from benchmarks.table import Budget, Figure
from crosslogic_common.clock import SystemClock
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.postgres import Pool, migrate, open_pool
from crosslogic_dev.ports import free_port
from crosslogic_dev.postgres import start_postgres
from crosslogic_dev.processes import ProcessTable
from crosslogic_dev.run_dir import RunDir
from crosslogic_identity import messages
from crosslogic_identity.service import IdentityService
from crosslogic_identity.store import PostgresStore

SMALL_ORGS, LARGE_ORGS = 10, 10_000
ENVIRONMENTS, KEYS = 3, 5
MOST_GROWTH = 1.3
"""How much slower a resolve may be with a thousand times the keys: it reads four rows by index either way."""
_FILL = """
    INSERT INTO orgs (id, name, cache_salt)
    SELECT md5('o' || o)::uuid, 'org ' || o, md5('s' || o) FROM generate_series(1, {orgs}) o;
    INSERT INTO environments (id, org_id, name, region)
    SELECT md5('e' || o || '-' || e)::uuid, md5('o' || o)::uuid, 'e' || e, 'us-east'
    FROM generate_series(1, {orgs}) o, generate_series(1, {environments}) e;
    INSERT INTO api_keys (id, org_id, environment_id, kind, secret_sha256, hint, limits)
    SELECT md5('k' || o || '-' || e || '-' || k)::uuid, md5('o' || o)::uuid, md5('e' || o || '-' || e)::uuid, 'live',
           sha256(('k' || o || '-' || e || '-' || k)::bytea), 'clsk_live_…0000', '{{"requests_per_minute": 60}}'
    FROM generate_series(1, {orgs}) o, generate_series(1, {environments}) e, generate_series(1, {keys}) k;
    ANALYZE orgs;
    ANALYZE environments;
    ANALYZE api_keys
"""


async def resolve_keys(resolves: int) -> list[Figure]:
    """Fills two schemas, and asks them in turns."""
    with tempfile.TemporaryDirectory(prefix="cl-bench-") as folder:
        Path(folder).chmod(0o711)
        run_dir = RunDir(Path(folder) / "run")
        run_dir.make()
        table = ProcessTable(run_dir)
        try:
            url = start_postgres(table, run_dir, port=free_port(), durable=False)
            return await _measure(url, resolves)
        finally:
            table.stop(["postgres"])


async def _measure(url: str, resolves: int) -> list[Figure]:
    for schema in ("few", "many"):
        await migrate(url, schema=schema, migrations=files("crosslogic_identity.migrations"))
    async with (
        open_pool(url, schema="few", max_size=1, statement_timeout_ms=600_000) as few,
        open_pool(url, schema="many", max_size=1, statement_timeout_ms=600_000) as many,
    ):
        await _fill(few, SMALL_ORGS)
        await _fill(many, LARGE_ORGS)
        small: list[float] = []
        large: list[float] = []
        # In turns: what else the machine does meets both alike.
        for _ in range(10):
            small += await _resolve_us(few, SMALL_ORGS, resolves // 10)
            large += await _resolve_us(many, LARGE_ORGS, resolves // 10)
    keys = ENVIRONMENTS * KEYS
    slow, fast = statistics.median(large), statistics.median(small)
    detail = {"resolves_each": len(large), "p90_us": statistics.quantiles(large, n=10)[-1]}
    return [
        Figure(f"resolve of a key, {SMALL_ORGS * keys:,} keys", fast, "µs", None, {"resolves": len(small)}),
        Figure(f"resolve of a key, {LARGE_ORGS * keys:,} keys", slow, "µs", None, detail),
        Figure("resolve, a thousand times the keys", slow / fast, "times", Budget(MOST_GROWTH)),
    ]


async def _fill(pool: Pool, orgs: int) -> None:
    async with pool.connection() as connection:
        values = {"orgs": sql.Literal(orgs), "environments": sql.Literal(ENVIRONMENTS), "keys": sql.Literal(KEYS)}
        await connection.execute(sql.SQL(_FILL).format(**values))


async def _resolve_us(pool: Pool, orgs: int, count: int) -> list[float]:
    service = IdentityService(store=PostgresStore(pool), clock=SystemClock(), ids=Uuid7Source())
    async with pool.connection() as connection:
        asked = [
            f"k{random.randint(1, orgs)}-{random.randint(1, ENVIRONMENTS)}-{random.randint(1, KEYS)}"
            for _ in range(count)
        ]
        cursor = await connection.execute("SELECT sha256(name::bytea) FROM unnest(%s::text[]) name", (asked,))
        digests = [bytes(row[0]) for row in await cursor.fetchall()]
    times = []
    for digest in digests:
        began = time.perf_counter()
        messages.principal(await service.resolve(digest)).SerializeToString()
        times.append((time.perf_counter() - began) * 1e6)
    return times
