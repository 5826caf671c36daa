"""Wires the scheduler together and serves it."""

import asyncio
import contextlib
import os
import random

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic.scheduler.v1 import scheduler_pb2_grpc as rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.clock import SystemClock
from crosslogic_common.grpc_server import GrpcServer, read_settings, run_service
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import Channels
from crosslogic_common.tracing import tracing
from crosslogic_scheduler.fleet import FleetView
from crosslogic_scheduler.metrics import SchedulerMetrics
from crosslogic_scheduler.servicer import SchedulerServicer
from crosslogic_scheduler.settings import SchedulerSettings
from crosslogic_scheduler.watch import RegistryWatch

SERVICE = "crosslogic.scheduler.v1.SchedulerService"
RULES: dict[str, frozenset[str]] = {
    f"/{SERVICE}/Pick": frozenset({"service:gateway", "service:operator"}),
    f"/{SERVICE}/PickStream": frozenset({"service:gateway"}),
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
        view = FleetView(draw=random.random)
        watch = RegistryWatch(
            channels=channels,
            target=settings.registry_target,
            view=view,
            clock=SystemClock(),
            backoff=Backoff(cap_s=2.0),
        )
        await stack.enter_async_context(watch.running())
        picks = SchedulerMetrics(metrics.registry, nodes=lambda: len(view), stale_s=watch.stale_s)
        servicer = SchedulerServicer(view=view, metrics=picks, stopping=stopping)
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


def main() -> None:
    """The process."""
    settings = read_settings(SchedulerSettings, os.environ)
    configure_logging("scheduler", settings.log_level)
    run_service(lambda stop: serve(settings, stop))
