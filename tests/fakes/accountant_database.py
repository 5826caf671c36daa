"""A ledger's database for integration tests: migrated, with its partitions."""

from importlib.resources import files

from prometheus_client import CollectorRegistry

from crosslogic_accountant.ledger_store import LedgerStore
from crosslogic_accountant.metrics import LedgerMetrics
from crosslogic_accountant.partitions import PartitionKeeper
from crosslogic_accountant.writer_connection import WriterConnection
from crosslogic_common.clock import SystemClock
from crosslogic_common.postgres import migrate


def metrics() -> LedgerMetrics:
    return LedgerMetrics(CollectorRegistry())


def writer_connection(url: str, timeout_s: float = 10.0) -> WriterConnection:
    return WriterConnection(dsn=url, schema="ledger", timeout_s=timeout_s)


def ledger_store(url: str, timeout_s: float = 10.0) -> LedgerStore:
    return LedgerStore(connection=writer_connection(url, timeout_s), metrics=metrics())


async def prepare_ledger(url: str) -> None:
    await migrate(url, schema="ledger", migrations=files("crosslogic_accountant.migrations"))
    keeper = PartitionKeeper(connection=writer_connection(url), clock=SystemClock(), metrics=metrics())
    await keeper.prepare()
    await keeper.close()
