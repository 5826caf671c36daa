"""Wires identity together and serves it."""

import asyncio
import contextlib
import os
from importlib.resources import files

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic.identity.v1 import identity_pb2_grpc as rpc
from crosslogic_common.clock import SystemClock
from crosslogic_common.grpc_server import GrpcServer, method_names, read_settings, run_service
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import Pool, migrate, notifications, open_pool
from crosslogic_common.redis import open_redis
from crosslogic_common.tracing import tracing
from crosslogic_identity.audit_log import AuditLog
from crosslogic_identity.audit_store import PostgresAuditStore
from crosslogic_identity.metrics import IdentityMetrics
from crosslogic_identity.plan_store import PostgresPlanStore
from crosslogic_identity.plans import Plans
from crosslogic_identity.revocations import RevocationHub
from crosslogic_identity.service import IdentityService
from crosslogic_identity.servicer import IdentityServicer, UseCases
from crosslogic_identity.settings import IdentitySettings
from crosslogic_identity.shared_cache import SharedCache
from crosslogic_identity.store import CHANNEL, PostgresStore
from crosslogic_identity.term_changes import PostgresTermChanges
from crosslogic_identity.user_store import PostgresUserStore
from crosslogic_identity.users import Users

SCHEMA = "identity"
SERVICE = "crosslogic.identity.v1.IdentityService"
_ADMIN = frozenset({"service:gateway", "service:operator"})
_GATEWAY = frozenset({"service:gateway"})
_BILLED = _ADMIN | {"service:billing"}
"""Billing suspends organisations that do not pay, lets them in again, and charges by plans and capacity."""
_SOLD = _ADMIN | {"service:orchestrator"}
"""Whoever sizes the fleet must know what was sold."""


def rules() -> dict[str, frozenset[str]]:
    """Who may call what."""
    special = {
        **dict.fromkeys(("ResolveApiKey", "ResolveUser", "WatchRevocations"), _GATEWAY),
        **dict.fromkeys(("GetOrg", "UpdateOrg"), _BILLED),
        "ListOrgs": _SOLD | _BILLED,
        "ListPlans": _BILLED,
        "ListTermChanges": frozenset({"service:billing", "service:operator"}),
    }
    return {f"/{SERVICE}/{method}": special.get(method, _ADMIN) for method in method_names(pb, SERVICE)}


def use_cases(pool: Pool) -> UseCases:
    """Everything that identity does, over one database."""
    clock, ids = SystemClock(), Uuid7Source()
    tenants = PostgresStore(pool)
    return UseCases(
        tenants=IdentityService(store=tenants, clock=clock, ids=ids),
        plans=Plans(store=PostgresPlanStore(pool), clock=clock),
        users=Users(store=PostgresUserStore(pool), tenants=tenants, clock=clock, ids=ids),
        audit=AuditLog(store=PostgresAuditStore(pool)),
        term_changes=PostgresTermChanges(pool),
    )


async def serve(settings: IdentitySettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    dsn = settings.database_url.reveal()
    if settings.migrate:
        await migrate(dsn, schema=SCHEMA, migrations=files("crosslogic_identity.migrations"))
    metrics = Metrics()
    own_metrics = IdentityMetrics(metrics)
    stopping = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        tracer = stack.enter_context(tracing("identity"))
        pool = await stack.enter_async_context(open_pool(dsn, schema=SCHEMA, max_size=settings.pool_size))
        redis = await stack.enter_async_context(open_redis(settings.redis_url.reveal()))
        cache = SharedCache(redis, clock=SystemClock(), metrics=own_metrics)
        hub = RevocationHub(before_push=cache.forget_all, metrics=own_metrics)
        servicer = IdentityServicer(use_cases=use_cases(pool), hub=hub, cache=cache, metrics=own_metrics)
        server = GrpcServer(
            listen=settings.listen,
            tls=settings.tls,
            rules=rules(),
            metrics=metrics,
            stopping=stopping,
            tracer=tracer,
            shutdown_grace_s=settings.shutdown_grace_s,
        )
        server.add(pb, SERVICE, lambda target: rpc.add_IdentityServiceServicer_to_server(servicer, target))
        announced = notifications(dsn, schema=SCHEMA, channel=CHANNEL)
        background = [
            asyncio.create_task(hub.run(announced), name="revocations"),
            asyncio.create_task(cache.run(hub.push_resync), name="shared cache"),
        ]
        # They end after the server: a revocation that it still commits is still told to Redis.
        stack.push_async_callback(_cancelled, background)
        async with server.serving():
            await _until(stop, background)
            hub.close()


async def _until(stop: asyncio.Event, background: list[asyncio.Task[None]]) -> None:
    """Waits for `stop`. Raises what ended a background task: without it, revocations would be lost in silence."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([stopped, *background], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    for task in background:
        if task.done():
            task.result()
            raise RuntimeError(f"the task {task.get_name()!r} ended by itself")


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        # Again, and not once: a call to Redis that ends in the same moment may swallow its task's cancellation.
        _, pending = await asyncio.wait(pending, timeout=0.5)
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """The process."""
    settings = read_settings(IdentitySettings, os.environ)
    configure_logging("identity", settings.log_level)
    run_service(lambda stop: serve(settings, stop))
