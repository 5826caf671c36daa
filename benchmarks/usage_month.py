"""An organisation's month of usage: answered from rollups, and what the same sum costs from the records.

Records lie in the real tables, as many as the time allows. What 50 million of them would leave in the rollups (the same
keys, models, regions and hours) is put into the rollups of a second organisation: its query reads nothing else.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from uuid import UUID, uuid4

from psycopg import sql

from benchmarks.table import Budget, Figure
from crosslogic_accountant.metrics import LedgerMetrics
from crosslogic_accountant.partitions import PartitionKeeper
from crosslogic_accountant.rollups.store import RollupStore
from crosslogic_accountant.usage_queries import Filter, Group, UsageQueries
from crosslogic_accountant.writer_connection import WriterConnection
from crosslogic_common.clock import SystemClock
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import Pool, migrate, open_pool
from crosslogic_dev.ports import free_port
from crosslogic_dev.postgres import start_postgres
from crosslogic_dev.processes import ProcessTable
from crosslogic_dev.run_dir import RunDir

LARGE = 50_000_000
KEYS = 50
MODELS = 4
REGIONS = 3
DAYS = 30
BUDGET_MS = 200
_CHUNK = 100_000
# Spread over the month, the keys, the models and the regions; ids sort by time as the gateway's do.
_FILL = """
    INSERT INTO usage_records (
        request_id, revision, requests, from_witness, stream, count_source, outcome, http_status, prompt_tokens,
        cached_prompt_tokens, completion_tokens, start_time, latency_us, time_to_first_token_us, cost_picodollars,
        prompt_price_picodollars, completion_price_picodollars, max_total_tokens, org_id, environment_id, api_key_id,
        model, api, region, node_id)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n %% 4096), 3, '0')
            || '8' || lpad(to_hex(n), 15, '0'))::uuid,
        0, 1, false, true, 1, 1, 200, 100 + n %% 900, 0, n %% 500, at, 1000000, 50000,
        (100 + n %% 900 + n %% 500) * 50000, 50000, 50000, 8192, %(org)s, %(org)s,
        ('00000000-0000-4000-8000-' || lpad((n %% %(keys)s)::text, 12, '0'))::uuid, 'model-' || n %% %(models)s,
        '/v1/chat/completions', 'region-' || n %% %(regions)s, 'node'
    FROM (SELECT n, %(low)s::timestamptz + n * %(step)s::interval AS at
          FROM generate_series(%(first)s::bigint, %(end)s::bigint - 1) n) s
"""
_FILL_ROLLUP = """
    INSERT INTO {table} (org_id, time, environment_id, api_key_id, model, region, requests, prompt_tokens,
                         cached_prompt_tokens, completion_tokens, cost_picodollars)
    SELECT %(org)s, t, %(org)s, ('00000000-0000-4000-8000-' || lpad(k::text, 12, '0'))::uuid, 'model-' || m,
           'region-' || r, %(each)s, %(each)s * 550::bigint, 0, %(each)s * 250::bigint, %(each)s * 40000000::numeric
    FROM generate_series(%(low)s::timestamptz, %(high)s::timestamptz - {step}, {step}) t,
         generate_series(0, %(keys)s - 1) k, generate_series(0, %(models)s - 1) m, generate_series(0, %(regions)s - 1) r
"""


async def usage_month(records: int) -> list[Figure]:
    """Fills, rolls up, asks."""
    with tempfile.TemporaryDirectory(prefix="cl-bench-") as folder:
        Path(folder).chmod(0o711)
        run_dir = RunDir(Path(folder) / "run")
        run_dir.make()
        table = ProcessTable(run_dir)
        try:
            url = start_postgres(table, run_dir, port=free_port(), durable=False)
            return await _measure(url, records)
        finally:
            table.stop(["postgres"])


async def _measure(url: str, records: int) -> list[Figure]:
    await migrate(url, schema="ledger", migrations=files("crosslogic_accountant.migrations"))
    connection = WriterConnection(dsn=url, schema="ledger", timeout_s=600.0)
    keeper = PartitionKeeper(
        connection=connection, clock=SystemClock(), metrics=LedgerMetrics(Metrics().registry), months_ahead=0
    )
    await keeper.prepare()
    await keeper.close()
    high = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    low = high - timedelta(days=DAYS)
    real, large = uuid4(), uuid4()
    rollups = RollupStore(connection=WriterConnection(dsn=url, schema="ledger", timeout_s=600.0))
    async with open_pool(url, schema="ledger", max_size=2, statement_timeout_ms=600_000) as pool:
        await _fill(pool, real, low, high, records)
        began = time.perf_counter()
        while await rollups.roll():
            pass
        rolled_s = time.perf_counter() - began
        await rollups.close()
        await _fill_rollups(pool, large, low, high)
        queries = UsageQueries(pool=pool)
        wanted = Filter(org_id=large, since=low, until=high)
        by_day = await _asked_ms(queries, wanted, (Group.DAY, Group.MODEL))
        by_hour = await _asked_ms(queries, wanted, (Group.HOUR,))
        small = await _asked_ms(queries, Filter(org_id=real, since=low, until=high), (Group.DAY, Group.MODEL))
        from_records = await _summed_ms(pool, real, low, high)
    detail = {
        "records": records,
        "rollup_rows_daily": DAYS * KEYS * MODELS * REGIONS,
        "rollup_rows_hourly": DAYS * 24 * KEYS * MODELS * REGIONS,
        "rolled_up_per_s": round(records / rolled_s),
        "by_day_ms": by_day,
        "by_hour_ms": by_hour,
        "records_summed_ms": from_records,
    }
    return [
        Figure(
            f"usage of an org's month by day and model, rollups of {LARGE:,} records",
            statistics.median(by_day),
            "ms",
            Budget(BUDGET_MS),
            detail,
        ),
        Figure(
            f"usage of an org's month by hour, rollups of {LARGE:,} records",
            statistics.median(by_hour),
            "ms",
            None,
            detail,
        ),
        Figure(f"usage of an org's month, {records:,} records", statistics.median(small), "ms", Budget(200), detail),
        Figure(f"the same summed from {records:,} records", from_records, "ms", None, detail),
        Figure("rows rolled up and posted", records / rolled_s, "1/s", None, detail),
    ]


async def _fill(pool: Pool, org: UUID, low: datetime, high: datetime, records: int) -> None:
    values = {
        "org": org,
        "low": low,
        "step": (high - low) / records,
        "keys": KEYS,
        "models": MODELS,
        "regions": REGIONS,
    }
    for first in range(0, records, _CHUNK):
        async with pool.connection() as connection:
            await connection.execute(_FILL, {**values, "first": first, "end": min(first + _CHUNK, records)})


async def _fill_rollups(pool: Pool, org: UUID, low: datetime, high: datetime) -> None:
    sets = KEYS * MODELS * REGIONS
    for table, step, buckets in (("usage_hourly", "1 hour", DAYS * 24), ("usage_daily", "1 day", DAYS)):
        query = sql.SQL(_FILL_ROLLUP).format(
            table=sql.Identifier(table), step=sql.SQL("interval {}").format(sql.Literal(step))
        )
        values = {
            "org": org,
            "low": low,
            "high": high,
            "each": max(LARGE // (sets * buckets), 1),
            "keys": KEYS,
            "models": MODELS,
            "regions": REGIONS,
        }
        async with pool.connection() as connection:
            await connection.execute(query, values)
    async with pool.connection() as connection:
        await connection.execute("ANALYZE usage_hourly, usage_daily")


async def _asked_ms(queries: UsageQueries, wanted: Filter, groups: Sequence[Group]) -> list[float]:
    seen: list[float] = []
    for _ in range(7):
        began = time.perf_counter()
        rows, _ = await queries.sums(wanted, groups, limit=10_000, token="")
        seen.append(round(1000 * (time.perf_counter() - began), 2))
        if not rows:
            raise RuntimeError("nothing was found")
    return seen


async def _summed_ms(pool: Pool, org: UUID, low: datetime, high: datetime) -> float:
    async with pool.connection() as connection:
        began = time.perf_counter()
        await connection.execute(
            "SELECT date_trunc('day', start_time, 'UTC'), model, sum(requests), sum(prompt_tokens), "
            "sum(completion_tokens), sum(cost_picodollars) FROM usage_records "
            "WHERE org_id = %s AND start_time >= %s AND start_time < %s GROUP BY 1, 2",
            (org, low, high),
        )
        return round(1000 * (time.perf_counter() - began), 1)
