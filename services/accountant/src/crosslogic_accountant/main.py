"""Wires the accountant together and serves it."""

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from importlib.resources import files

from prometheus_client import Gauge

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as rpc
from crosslogic.accountant.v1 import budgets_pb2 as budgets_pb
from crosslogic.accountant.v1 import budgets_pb2_grpc as budgets_rpc
from crosslogic.accountant.v1 import money_pb2 as money_pb
from crosslogic.accountant.v1 import money_pb2_grpc as money_rpc
from crosslogic_accountant.budgets.read_store import SpendReader
from crosslogic_accountant.budgets.servicer import BudgetServicer
from crosslogic_accountant.budgets.store import BudgetStore
from crosslogic_accountant.correction_store import Corrections
from crosslogic_accountant.domain import Witness
from crosslogic_accountant.group_commit import GroupCommit
from crosslogic_accountant.ledger_store import LedgerStore
from crosslogic_accountant.metrics import LedgerMetrics
from crosslogic_accountant.money.expiry import HoldExpiry
from crosslogic_accountant.money.hold_store import HoldStore
from crosslogic_accountant.money.servicer import MoneyServicer
from crosslogic_accountant.money.settlement_store import settle
from crosslogic_accountant.money.store import MoneyStore
from crosslogic_accountant.partitions import PartitionKeeper
from crosslogic_accountant.policy import WitnessRing
from crosslogic_accountant.ports import PreparedRecord, Stored
from crosslogic_accountant.record_log_store import RecordLog
from crosslogic_accountant.record_reader import RecordReader, WitnessReader
from crosslogic_accountant.rollups.compare_store import UsageComparer
from crosslogic_accountant.rollups.roller import Roller, RollupChecker
from crosslogic_accountant.rollups.store import RollupStore
from crosslogic_accountant.service import AccountantService
from crosslogic_accountant.servicer import AccountantServicer
from crosslogic_accountant.settings import AccountantSettings
from crosslogic_accountant.settler import Settler
from crosslogic_accountant.usage_queries import UsageQueries
from crosslogic_accountant.witness_store import PostgresSettlingStore, WitnessStore
from crosslogic_accountant.writer_connection import WriterConnection
from crosslogic_common.clock import SystemClock
from crosslogic_common.errors import CodedError
from crosslogic_common.grpc_server import GrpcServer, StartError, read_settings, run_service
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import migrate, open_pool
from crosslogic_common.seal import Sealer
from crosslogic_common.tracing import tracing

SCHEMA = "ledger"
SERVICE = "crosslogic.accountant.v1.AccountantService"
BUDGET_SERVICE = "crosslogic.accountant.v1.BudgetService"
MONEY_SERVICE = "crosslogic.accountant.v1.MoneyService"
_READERS = frozenset({"service:billing", "service:gateway", "service:operator"})
_OPERATORS = frozenset({"service:gateway", "service:operator"})
_BOOKKEEPERS = frozenset({"service:billing", "service:operator"})
RULES: dict[str, frozenset[str]] = {
    f"/{SERVICE}/RecordUsage": frozenset({"service:gateway", "service:operator"}),
    f"/{SERVICE}/RecordStream": frozenset({"service:gateway"}),
    f"/{SERVICE}/RecordWitnesses": frozenset({"service:registry"}),
    f"/{SERVICE}/QueryUsage": _READERS | {"service:orchestrator"},
    f"/{SERVICE}/ListUsageRecords": _READERS,
    f"/{SERVICE}/ReadRecords": frozenset({"service:billing", "service:operator"}),
    f"/{SERVICE}/CorrectRecord": _READERS,
    f"/{SERVICE}/CompareUsage": _READERS,
    f"/{SERVICE}/RebuildRollups": frozenset({"service:billing", "service:operator"}),
    f"/{BUDGET_SERVICE}/CreateBudget": _OPERATORS,
    f"/{BUDGET_SERVICE}/GetBudget": _OPERATORS,
    f"/{BUDGET_SERVICE}/ListBudgets": _OPERATORS,
    f"/{BUDGET_SERVICE}/UpdateBudget": _OPERATORS,
    f"/{BUDGET_SERVICE}/DeleteBudget": _OPERATORS,
    f"/{BUDGET_SERVICE}/ListBudgetEvents": _READERS | {"service:orchestrator"},
    f"/{BUDGET_SERVICE}/WatchBudgets": frozenset({"service:gateway"}),
    f"/{BUDGET_SERVICE}/ReadSpend": _READERS,
    f"/{MONEY_SERVICE}/PostTransfer": _BOOKKEEPERS,
    f"/{MONEY_SERVICE}/GetBalances": _READERS,
    f"/{MONEY_SERVICE}/ListTransfers": _READERS,
    f"/{MONEY_SERVICE}/Reserve": _READERS,
    f"/{MONEY_SERVICE}/ResolveHold": _READERS,
    f"/{MONEY_SERVICE}/CheckBooks": _BOOKKEEPERS,
}
_SETTLE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Servicers:
    """What the process serves."""

    accountant: AccountantServicer
    budgets: BudgetServicer
    money: MoneyServicer


@contextlib.asynccontextmanager
async def accountant(
    settings: AccountantSettings, metrics: Metrics, stopping: asyncio.Event
) -> AsyncIterator[Servicers]:
    """The service and all that runs behind it; at the end of the block what is queued is made durable first."""
    dsn = settings.database_url.reveal()
    ledger_metrics = LedgerMetrics(metrics.registry)
    ring = WitnessRing(grace_s=settings.witness_grace_s)
    reader = RecordReader(now_ms=_now_ms)

    def connection(timeout_s: float) -> WriterConnection:
        return WriterConnection(dsn=dsn, schema=SCHEMA, timeout_s=timeout_s)

    records: GroupCommit[PreparedRecord, Stored] = GroupCommit(
        name="records",
        sinks=[
            LedgerStore(connection=connection(settings.commit_timeout_s), metrics=ledger_metrics)
            for _ in range(settings.record_writers)
        ],
        batch_size=ledger_metrics.batch_size,
        commit_seconds=ledger_metrics.commit_seconds,
        failures=ledger_metrics.commit_failures,
        drain_s=settings.shutdown_grace_s,
    )
    witnesses: GroupCommit[Witness, Stored] = GroupCommit(
        name="witnesses",
        sinks=[WitnessStore(connection=connection(settings.commit_timeout_s), ring=ring, now_s=time.time)],
        batch_size=ledger_metrics.batch_size,
        commit_seconds=ledger_metrics.commit_seconds,
        failures=ledger_metrics.commit_failures,
        drain_s=settings.shutdown_grace_s,
    )
    queued = Gauge(
        "crosslogic_accountant_queued", "Items that wait to be written.", ["writer"], registry=metrics.registry
    )
    queued.labels("records").set_function(lambda: records.queued)
    queued.labels("witnesses").set_function(lambda: witnesses.queued)
    settling = PostgresSettlingStore(connection=connection(_SETTLE_TIMEOUT_S))
    settler = Settler(store=settling, ring=ring, reader=reader, metrics=ledger_metrics, now_s=time.time)
    keeper = PartitionKeeper(
        connection=connection(30.0),
        clock=SystemClock(),
        metrics=ledger_metrics,
        keep_months=settings.record_retention_months,
    )
    rollups = RollupStore(connection=connection(_SETTLE_TIMEOUT_S), on_rolled=settle)
    roller = Roller(store=rollups, metrics=ledger_metrics)
    checking = RollupStore(connection=connection(_SETTLE_TIMEOUT_S))
    checker = RollupChecker(store=checking, metrics=ledger_metrics, now=SystemClock().now)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(rollups.close)
        stack.push_async_callback(checking.close)
        stack.push_async_callback(settling.close)
        stack.push_async_callback(keeper.close)
        pool = await stack.enter_async_context(
            open_pool(
                dsn,
                schema=SCHEMA,
                max_size=settings.query_pool_size,
                statement_timeout_ms=round(settings.query_timeout_s * 1000),
            )
        )
        holds = HoldStore(pool=pool)
        expiry = HoldExpiry(holds=holds)
        await stack.enter_async_context(
            _in_background(keeper.run(), settler.run(), roller.run(), checker.run(), expiry.run())
        )
        await stack.enter_async_context(records.running())
        await stack.enter_async_context(witnesses.running())
        yield Servicers(
            accountant=AccountantServicer(
                service=AccountantService(
                    records=records,
                    witnesses=witnesses,
                    record_reader=reader,
                    witness_reader=WitnessReader(sealer=_sealer(settings), now_ms=_now_ms),
                    metrics=ledger_metrics,
                ),
                queries=UsageQueries(pool=pool),
                log=RecordLog(pool=pool),
                corrections=Corrections(pool=pool),
                comparer=UsageComparer(pool=pool),
                rollups=checking,
                stopping=stopping,
            ),
            budgets=BudgetServicer(
                budgets=BudgetStore(pool=pool),
                spending=SpendReader(pool=pool),
                now=SystemClock().now,
                stopping=stopping,
            ),
            money=MoneyServicer(money=MoneyStore(pool=pool), holds=holds),
        )


async def serve(settings: AccountantSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    if settings.migrate:
        await migrate(
            settings.database_url.reveal(), schema=SCHEMA, migrations=files("crosslogic_accountant.migrations")
        )
    metrics = Metrics()
    stopping = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        tracer = stack.enter_context(tracing("accountant"))
        servicers = await stack.enter_async_context(accountant(settings, metrics, stopping))
        server = GrpcServer(
            listen=settings.listen,
            tls=settings.tls,
            rules=RULES,
            metrics=metrics,
            stopping=stopping,
            tracer=tracer,
            shutdown_grace_s=settings.shutdown_grace_s,
        )
        server.add(
            pb, SERVICE, lambda target: rpc.add_AccountantServiceServicer_to_server(servicers.accountant, target)
        )
        server.add(
            budgets_pb,
            BUDGET_SERVICE,
            lambda target: budgets_rpc.add_BudgetServiceServicer_to_server(servicers.budgets, target),
        )
        server.add(
            money_pb,
            MONEY_SERVICE,
            lambda target: money_rpc.add_MoneyServiceServicer_to_server(servicers.money, target),
        )
        await stack.enter_async_context(server.serving())
        await stop.wait()


def _collect_seldom() -> None:
    """Records leave no cycles behind; collecting every 700 objects would look at all that wait, again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def main() -> None:
    """The process."""
    settings = read_settings(AccountantSettings, os.environ)
    configure_logging("accountant", settings.log_level)
    _collect_seldom()
    run_service(lambda stop: serve(settings, stop))


@contextlib.asynccontextmanager
async def _in_background(*jobs: Coroutine[None, None, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _sealer(settings: AccountantSettings) -> Sealer:
    try:
        return Sealer.from_base64(settings.seal_key.reveal())
    except CodedError as error:
        raise StartError(f"CROSSLOGIC_SEAL_KEY: {error.public}") from None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
