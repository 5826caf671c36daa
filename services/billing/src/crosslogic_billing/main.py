"""Wires billing together and serves it."""

import asyncio
import contextlib
import os
from importlib.resources import files

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic.billing.v1 import billing_pb2_grpc as rpc
from crosslogic_billing.prices.book import PriceBook
from crosslogic_billing.prices.store import CHANNEL, PostgresPrices
from crosslogic_billing.servicer import BillingServicer
from crosslogic_billing.settings import BillingSettings
from crosslogic_common.clock import SystemClock
from crosslogic_common.grpc_server import GrpcServer, method_names, read_settings, run_service
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import migrate, notifications, open_pool
from crosslogic_common.tracing import tracing

SCHEMA = "billing"
SERVICE = "crosslogic.billing.v1.BillingService"
_ADMIN = frozenset({"service:gateway", "service:operator"})
_GATEWAY_ONLY = frozenset({"WatchPrices"})


def rules() -> dict[str, frozenset[str]]:
    """Who may call what."""
    gateway = frozenset({"service:gateway"})
    return {
        f"/{SERVICE}/{method}": gateway if method in _GATEWAY_ONLY else _ADMIN for method in method_names(pb, SERVICE)
    }


async def serve(settings: BillingSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    dsn = settings.database_url.reveal()
    if settings.migrate:
        await migrate(dsn, schema=SCHEMA, migrations=files("crosslogic_billing.migrations"))
    metrics = Metrics()
    clock = SystemClock()
    ids = Uuid7Source()
    stopping = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        tracer = stack.enter_context(tracing("billing"))
        pool = await stack.enter_async_context(open_pool(dsn, schema=SCHEMA, max_size=settings.pool_size))
        prices = PriceBook(store=PostgresPrices(pool, new_id=ids.next_text), clock=clock)
        await stack.enter_async_context(prices.following(notifications(dsn, schema=SCHEMA, channel=CHANNEL)))
        servicer = BillingServicer(prices=prices, clock=clock)
        server = GrpcServer(
            listen=settings.listen,
            tls=settings.tls,
            rules=rules(),
            metrics=metrics,
            stopping=stopping,
            tracer=tracer,
            shutdown_grace_s=settings.shutdown_grace_s,
        )
        server.add(pb, SERVICE, lambda target: rpc.add_BillingServiceServicer_to_server(servicer, target))
        async with server.serving():
            await stop.wait()
            await prices.close()


def main() -> None:
    """The process."""
    settings = read_settings(BillingSettings, os.environ)
    configure_logging("billing", settings.log_level)
    run_service(lambda stop: serve(settings, stop))
