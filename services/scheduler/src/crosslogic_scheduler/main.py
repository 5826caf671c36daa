"""Wires the scheduler together and serves it."""

import asyncio
import contextlib
import os
import random

import grpc.aio

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic.registry.v1 import registry_pb2_grpc as registry_rpc
from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic.scheduler.v1 import scheduler_pb2_grpc as rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.clock import Clock, SystemClock
from crosslogic_common.grpc_server import GrpcServer, read_settings, run_service
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import Channels
from crosslogic_common.tracing import tracing
from crosslogic_scheduler.fleet import FleetView
from crosslogic_scheduler.lanes.lanes import Lanes
from crosslogic_scheduler.lanes.metrics import LaneMetrics
from crosslogic_scheduler.metrics import SchedulerMetrics
from crosslogic_scheduler.servicer import SchedulerServicer
from crosslogic_scheduler.settings import SchedulerSettings
from crosslogic_scheduler.watch import RegistryWatch

SERVICE = "crosslogic.scheduler.v1.SchedulerService"
RULES: dict[str, frozenset[str]] = {
    f"/{SERVICE}/Pick": frozenset({"service:gateway", "service:operator"}),
    f"/{SERVICE}/PickStream": frozenset({"service:gateway"}),
    f"/{SERVICE}/LaneStream": frozenset({"service:gateway"}),
}


async def serve(settings: SchedulerSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    metrics = Metrics()
    stopping = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        tracer = stack.enter_context(tracing("scheduler"))
        channels = Channels(settings.tls)
        stack.push_async_callback(channels.close)
        clock = SystemClock()
        picks = SchedulerMetrics(metrics.registry, settings.regions.regions)
        view = FleetView(
            draw=random.random,
            now=clock.monotonic,
            regions=settings.regions,
            failover_share=settings.region_failover_share,
            events=picks.events,
        )
        lanes = Lanes(code_of=settings.regions.code, now=clock.monotonic, sample=random.sample)
        view.room = lanes
        metrics.registry.register(LaneMetrics(lanes))
        fleet_watch, catalogue_watch = _watches(channels, settings.registry_target, view, lanes, clock)
        await stack.enter_async_context(fleet_watch.running())
        await stack.enter_async_context(catalogue_watch.running())
        picks.watch(view, fleet_watch.stale_s)
        servicer = SchedulerServicer(view=view, lanes=lanes, metrics=picks, stopping=stopping, tracer=tracer)
        server = GrpcServer(
            listen=settings.listen,
            tls=settings.tls,
            rules=RULES,
            metrics=metrics,
            stopping=stopping,
            tracer=tracer,
            shutdown_grace_s=settings.shutdown_grace_s,
        )
        server.add(pb, SERVICE, lambda target: rpc.add_SchedulerServiceServicer_to_server(servicer, target))
        await stack.enter_async_context(server.serving())
        await stop.wait()


def _watches(
    channels: Channels, target: str, view: FleetView, lanes: Lanes, clock: Clock
) -> tuple[RegistryWatch[registry_pb.WatchNodesResponse], RegistryWatch[registry_pb.WatchModelsResponse]]:
    """Of the fleet and of the catalogue."""

    def channel() -> grpc.aio.Channel:
        return channels.service("registry", target)

    def take_nodes(message: registry_pb.WatchNodesResponse) -> bool:
        view.apply(message)
        lanes.apply(message)
        return view.known

    def take_models(message: registry_pb.WatchModelsResponse) -> bool:
        view.apply_catalogue(message.models)
        return True

    return (
        RegistryWatch(
            name="fleet",
            open_stream=lambda: registry_rpc.RegistryServiceStub(channel()).WatchNodes(registry_pb.WatchNodesRequest()),
            take=take_nodes,
            clock=clock,
            backoff=Backoff(cap_s=2.0),
        ),
        RegistryWatch(
            name="catalogue",
            open_stream=lambda: registry_rpc.RegistryServiceStub(channel()).WatchModels(
                registry_pb.WatchModelsRequest()
            ),
            take=take_models,
            clock=clock,
            backoff=Backoff(cap_s=2.0),
        ),
    )


def main() -> None:
    """The process."""
    settings = read_settings(SchedulerSettings, os.environ)
    configure_logging("scheduler", settings.log_level)
    run_service(lambda stop: serve(settings, stop))
