"""Wires the registry together and serves it."""

import asyncio
import contextlib
import os
from importlib.resources import files

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.clock import SystemClock
from crosslogic_common.grpc_server import GrpcServer, read_settings, run_service
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import migrate, open_pool
from crosslogic_common.tls import Channels
from crosslogic_common.tracing import tracing
from crosslogic_registry.catalogue import Catalogue
from crosslogic_registry.certificates import NodeCertificates
from crosslogic_registry.fleet import Fleet
from crosslogic_registry.joining import Joining
from crosslogic_registry.policy import Silence
from crosslogic_registry.servicer import NodeJoinServicer, RegistryServicer
from crosslogic_registry.settings import RegistrySettings
from crosslogic_registry.store import PostgresStore
from crosslogic_registry.witnesses import WitnessForwarder

SERVICE = "crosslogic.registry.v1.RegistryService"
JOIN_SERVICE = "crosslogic.registry.v1.NodeJoinService"
_NODE = frozenset({"node"})
_ADMIN = frozenset({"service:gateway", "service:operator"})
_WATCHER = frozenset({"service:scheduler", "service:gateway", "service:operator"})

RULES: dict[str, frozenset[str]] = {
    f"/{SERVICE}/{method}": callers
    for method, callers in {
        "CreateJoinToken": _ADMIN,
        "RenewCertificate": _NODE,
        "HeartbeatStream": _NODE,
        "WitnessStream": _NODE,
        "WatchNodes": _WATCHER,
        "ListNodes": _ADMIN,
        "DrainNode": _ADMIN,
        "CreateModel": _ADMIN,
        "ListModels": _WATCHER,
        "WatchModels": _ADMIN,
    }.items()
}
JOIN_RULES = {f"/{JOIN_SERVICE}/JoinNode": frozenset({"anonymous"})}


async def serve(settings: RegistrySettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    dsn = settings.database_url.reveal()
    if settings.migrate:
        await migrate(dsn, schema="registry", migrations=files("crosslogic_registry.migrations"))
    metrics = Metrics()
    stopping = asyncio.Event()
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        tracer = stack.enter_context(tracing("registry"))
        pool = await stack.enter_async_context(open_pool(dsn, schema="registry", max_size=settings.pool_size))
        store = PostgresStore(pool)
        silence = Silence(settings.suspect_s, settings.unhealthy_s, settings.dead_s)
        fleet = Fleet(store=store, clock=clock, silence=silence)
        await fleet.load()
        await stack.enter_async_context(fleet.watched())
        catalogue = Catalogue(store=store, dsn=dsn)
        await stack.enter_async_context(catalogue.running())
        channels = Channels(settings.tls)
        stack.push_async_callback(channels.close)
        certificates = NodeCertificates(
            ca_cert_file=settings.node_ca_cert_file,
            ca_key_file=settings.node_ca_key_file,
            trust_file=settings.tls_ca_file,
            validity_s=settings.node_certificate_validity_s,
        )
        joining = Joining(store=store, fleet=fleet, certificates=certificates, clock=clock, ids=Uuid7Source())
        servicer = RegistryServicer(
            fleet=fleet,
            joining=joining,
            catalogue=catalogue,
            witnesses=WitnessForwarder(channels=channels, accountant_target=settings.accountant_target),
            stopping=stopping,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
        )
        server = GrpcServer(
            listen=settings.listen,
            tls=settings.tls,
            rules=RULES,
            metrics=metrics,
            stopping=stopping,
            tracer=tracer,
            shutdown_grace_s=settings.shutdown_grace_s,
        )
        server.add(pb, SERVICE, lambda target: rpc.add_RegistryServiceServicer_to_server(servicer, target))
        join_server = GrpcServer(
            listen=settings.join_listen,
            tls=settings.tls,
            rules=JOIN_RULES,
            metrics=metrics,
            stopping=stopping,
            tracer=tracer,
            shutdown_grace_s=settings.shutdown_grace_s,
            client_certificates=False,
        )
        join_server.add(
            pb, JOIN_SERVICE, lambda target: rpc.add_NodeJoinServiceServicer_to_server(NodeJoinServicer(joining), target)
        )
        await stack.enter_async_context(join_server.serving())
        await stack.enter_async_context(server.serving())
        await stop.wait()


def main() -> None:
    """The process."""
    settings = read_settings(RegistrySettings, os.environ)
    configure_logging("registry", settings.log_level)
    run_service(lambda stop: serve(settings, stop))
