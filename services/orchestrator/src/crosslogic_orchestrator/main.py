"""Wires the orchestrator together and serves it."""

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator, Coroutine
from importlib.resources import files
from typing import Any

from opentelemetry import trace

from crosslogic.orchestrator.v1 import deployments_pb2 as scaling_pb
from crosslogic.orchestrator.v1 import deployments_pb2_grpc as scaling_rpc
from crosslogic.orchestrator.v1 import notifications_pb2 as notify_pb
from crosslogic.orchestrator.v1 import notifications_pb2_grpc as notify_rpc
from crosslogic.orchestrator.v1 import orchestrator_pb2 as pb
from crosslogic.orchestrator.v1 import orchestrator_pb2_grpc as rpc
from crosslogic_common.clock import SystemClock
from crosslogic_common.grpc_server import GrpcServer, method_names, read_settings, run_service
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import migrate, open_pool
from crosslogic_common.tls import Channels
from crosslogic_common.tracing import tracing
from crosslogic_orchestrator.fleet import RegistryFleet
from crosslogic_orchestrator.launch_wiring import Launching, OpenLaunching, open_launching
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.notify.wiring import OpenNotify, open_notify
from crosslogic_orchestrator.ports import Provider
from crosslogic_orchestrator.providers.local import LocalProvider, LocalSettings
from crosslogic_orchestrator.providers.skypilot_link import WorkerLink
from crosslogic_orchestrator.providers.skypilot_wiring import clouds, worker_environ
from crosslogic_orchestrator.providers.static import StaticProvider
from crosslogic_orchestrator.providers.static_claims import PostgresClaims
from crosslogic_orchestrator.providers.static_wiring import static_settings
from crosslogic_orchestrator.scaling.observing import FleetSignals
from crosslogic_orchestrator.scaling.wiring import OpenScaling, Scaling, open_scaling
from crosslogic_orchestrator.settings import OrchestratorSettings
from crosslogic_orchestrator.store import SCHEMA

SERVICE = "crosslogic.orchestrator.v1.OrchestratorService"
SCALING_SERVICE = "crosslogic.orchestrator.v1.DeploymentService"
NOTIFY_SERVICE = "crosslogic.orchestrator.v1.NotificationService"
_AGENT_PORTS = (10_000, 20_000)
_ADMIN = frozenset({"service:gateway", "service:operator"})


def rules() -> dict[str, frozenset[str]]:
    """Who may call what."""
    return {
        **{f"/{SERVICE}/{method}": _ADMIN for method in method_names(pb, SERVICE)},
        **{f"/{SCALING_SERVICE}/{method}": _ADMIN for method in method_names(scaling_pb, SCALING_SERVICE)},
        f"/{SCALING_SERVICE}/ReportWaiting": frozenset({"service:gateway"}),
        **{f"/{NOTIFY_SERVICE}/{method}": _ADMIN for method in method_names(notify_pb, NOTIFY_SERVICE)},
    }


async def serve(settings: OrchestratorSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    dsn = settings.database_url.reveal()
    if settings.migrate:
        await migrate(dsn, schema=SCHEMA, migrations=files("crosslogic_orchestrator.migrations"))
    metrics, clock = Metrics(), SystemClock()
    own_metrics = OrchestratorMetrics(metrics)
    wake, urgent = asyncio.Event(), asyncio.Event()
    signals = FleetSignals(urgent=urgent)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        tracer = stack.enter_context(tracing("orchestrator"))
        channels = Channels(settings.tls)
        stack.push_async_callback(channels.close)
        pool = await stack.enter_async_context(open_pool(dsn, schema=SCHEMA, max_size=settings.pool_size))
        fleet = RegistryFleet(
            channels=channels,
            target=settings.registry_target,
            changed=wake,
            told=signals.take,
            lost=signals.lost,
            clock=clock,
        )
        link = WorkerLink(settings.skypilot_worker, worker_environ(settings, os.environ))
        await stack.enter_async_context(link.running())
        providers = _providers(settings, link, claims=PostgresClaims(pool), clock=clock)
        scaling = open_scaling(
            settings,
            Scaling(
                pool=pool,
                channels=channels,
                signals=signals,
                models=fleet,
                providers=frozenset(providers),
                clock=clock,
                metrics=own_metrics,
                wake=urgent,
                work=wake,
            ),
        )
        notify = await stack.enter_async_context(
            open_notify(settings, pool=pool, channels=channels, clock=clock, metrics=metrics)
        )
        launching = open_launching(
            settings,
            Launching(pool=pool, fleet=fleet, providers=providers, clock=clock, metrics=own_metrics, wake=wake),
        )
        server = _server(settings, metrics=metrics, tracer=tracer)
        _add(server, launching=launching, scaling=scaling, notify=notify)
        loops = [
            *notify.loops,
            *launching.loops,
            fleet.follow(),
            scaling.autoscaler.run(),
            scaling.autoscaler.refresh(),
        ]
        async with _running(loops), server.serving():
            await stop.wait()
            launching.changes.close()


def _server(settings: OrchestratorSettings, *, metrics: Metrics, tracer: trace.Tracer | None) -> GrpcServer:
    return GrpcServer(
        listen=settings.listen,
        tls=settings.tls,
        rules=rules(),
        metrics=metrics,
        stopping=asyncio.Event(),
        tracer=tracer,
        shutdown_grace_s=settings.shutdown_grace_s,
    )


def _add(server: GrpcServer, *, launching: OpenLaunching, scaling: OpenScaling, notify: OpenNotify) -> None:
    server.add(pb, SERVICE, lambda target: rpc.add_OrchestratorServiceServicer_to_server(launching.servicer, target))
    server.add(
        scaling_pb,
        SCALING_SERVICE,
        lambda target: scaling_rpc.add_DeploymentServiceServicer_to_server(scaling.servicer, target),
    )
    server.add(
        notify_pb,
        NOTIFY_SERVICE,
        lambda target: notify_rpc.add_NotificationServiceServicer_to_server(notify.servicer, target),
    )


@contextlib.asynccontextmanager
async def _running(loops: list[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Runs what runs for ever, for as long as the block lasts. One that ends takes the process with it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def _providers(
    settings: OrchestratorSettings, link: WorkerLink, *, claims: PostgresClaims, clock: SystemClock
) -> dict[str, Provider]:
    providers: dict[str, Provider] = clouds(settings, link) if settings.skypilot_worker else {}
    if settings.static_machines:
        providers["static"] = StaticProvider(static_settings(settings), claims=claims, clock=clock)
    if settings.local_path is not None:
        local = LocalSettings(
            folder=settings.local_path, agent_environ=settings.local_environ, max_machines=settings.local_max
        )
        providers["local"] = LocalProvider(local, free_port=_free_port)
    return providers


def _free_port() -> int:
    """A port that nobody listens on, from below those that the kernel gives to outgoing connections.

    An agent binds it a moment later, and a connection of anybody's would have it by then.
    """
    while True:
        port = random.randrange(*_AGENT_PORTS)  # no secret
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def main() -> None:
    """The process."""
    settings = read_settings(OrchestratorSettings, os.environ)
    configure_logging("orchestrator", settings.log_level)
    run_service(lambda stop: serve(settings, stop))
