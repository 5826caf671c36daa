"""Wires the agent together and runs it."""

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from opentelemetry import trace

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic.node_agent.v1 import node_agent_pb2_grpc as rpc
from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_common.clock import SystemClock
from crosslogic_common.grpc_server import GrpcServer, read_settings, run_service
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import Channels, TlsFiles
from crosslogic_common.tracing import tracing
from crosslogic_node_agent import nvml, spot_wiring
from crosslogic_node_agent.commands import Carry, Commands, Done
from crosslogic_node_agent.departure import Departure
from crosslogic_node_agent.domain import EngineStatus
from crosslogic_node_agent.engine_process import EngineCommand
from crosslogic_node_agent.engine_side import EngineSide, open_engine
from crosslogic_node_agent.enrolment import Renewal, join
from crosslogic_node_agent.heartbeat import Heartbeat
from crosslogic_node_agent.identity import IdentityFiles
from crosslogic_node_agent.log_buffer import LogBuffer
from crosslogic_node_agent.log_shipping import LogShipping
from crosslogic_node_agent.logs_command import LogCollector
from crosslogic_node_agent.machine import LocalMachine, accelerators
from crosslogic_node_agent.measure import Measurement
from crosslogic_node_agent.metrics import AgentMetrics
from crosslogic_node_agent.node_life import NodeLife
from crosslogic_node_agent.relay import Relay
from crosslogic_node_agent.relay_session import RelaySession
from crosslogic_node_agent.report import Place, Report
from crosslogic_node_agent.servicer import NodeAgentServicer
from crosslogic_node_agent.settings import NodeAgentSettings
from crosslogic_node_agent.settings_check import check_together
from crosslogic_node_agent.spool import Spool
from crosslogic_node_agent.stored_weights import StoredWeights
from crosslogic_node_agent.supervisor import Supervisor
from crosslogic_node_agent.tunnels import Tunnels
from crosslogic_node_agent.updates import Updates
from crosslogic_node_agent.weights import WeightsCleaner
from crosslogic_node_agent.witnesses import WitnessOutbox, witness_caller

SERVICE = "crosslogic.node_agent.v1.NodeAgentService"
OFFLINE_ENGINE: Final = MappingProxyType(
    {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
)
"""What keeps an engine and its libraries from asking anybody outside."""
RESTART_EXIT_CODE = 75
"""Asks whoever keeps the agent running to start it again, with the version that is installed now."""
RULES: dict[str, frozenset[str]] = {
    f"/{SERVICE}/Relay": frozenset({"service:gateway"}),
    f"/{SERVICE}/Infer": frozenset({"service:gateway", "service:operator", "service:registry"}),
}


async def serve(settings: NodeAgentSettings, stop: asyncio.Event) -> int:
    """Runs until `stop` is set; the process's exit code.

    Stops in this order: no new requests, running ones end, witnesses, goodbye, engine.
    """
    check_together(settings)
    restart = asyncio.Event()
    metrics = Metrics()
    agent_metrics = AgentMetrics(metrics)
    life = NodeLife()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        tracer = stack.enter_context(tracing("node_agent"))
        logs = await _logs(stack, settings, agent_metrics)
        engine = open_engine(settings, agent_metrics, stack)
        gpus = await _gpus(settings)
        cleaner, weights = _weights(settings, gpus)
        supervisor = _supervisor(settings, engine, agent_metrics, weights)
        await stack.enter_async_context(supervisor.running())
        files = IdentityFiles(settings.state_dir)
        joined = await join(
            files=files,
            join_target=settings.registry_join_target,
            token=settings.join_token,
            bootstrap_ca=await asyncio.to_thread(settings.tls_ca_file.read_bytes),
            stop=stop,
        )
        channels = Channels(files.tls)
        stack.push_async_callback(channels.close)
        if weights is not None:
            weights.open(channels, settings.registry_target)
        renewal = Renewal(files=files, channels=channels, registry_target=settings.registry_target, clock=SystemClock())
        await stack.enter_async_context(renewal.running())
        # The relay is made further below: no stream is served before.
        tunnels = Tunnels(channels=channels, new_session=lambda: RelaySession(relay))
        updates = _updates(settings, restart, stop) if settings.update_dir else None
        heartbeat = Heartbeat(
            report=await _report(stack, settings, supervisor, life, engine, agent_metrics, weights, gpus),
            supervisor=supervisor,
            life=life,
            commands=await _commands(stack, settings, renewal, updates),
            on_tunnels=tunnels.set_addresses,
            channels=channels,
            registry_target=settings.registry_target,
            metrics=agent_metrics,
            logs=logs,
        )
        await stack.enter_async_context(heartbeat.running())
        outbox = WitnessOutbox(
            spool=Spool(settings.state_dir / "witnesses"),
            caller=witness_caller(channels, settings.registry_target),
            metrics=agent_metrics,
        )
        await stack.enter_async_context(outbox.running())
        relay = Relay(
            pool=engine.pool,
            models=supervisor,
            dialect=engine.dialect,
            witnesses=outbox,
            metrics=agent_metrics,
            max_calls=settings.max_calls,
            org_id=joined.node.org_id,
            tracer=tracer,
        )
        if settings.tunnel:
            await stack.enter_async_context(tunnels.running())
        else:
            server = _server(settings, files.tls, metrics, tracer, relay)
            await stack.enter_async_context(server.serving())
        await _keep_house(stack, settings, cleaner, updates, partial(_is_well, heartbeat, supervisor))
        spot = spot_wiring.watch(settings, SystemClock(), life)
        await stack.enter_async_context(spot.running())
        await Departure(life=life, relay=relay, clock=SystemClock(), handover_s=settings.spot_handover_s).wait(
            stop, grace_s=settings.shutdown_grace_s
        )
        await outbox.flush(2.0)
    # After the goodbye: from now on the machine may be taken at any moment.
    await spot.acknowledge()
    return RESTART_EXIT_CODE if restart.is_set() else 0


async def _logs(
    stack: contextlib.AsyncExitStack, settings: NodeAgentSettings, metrics: AgentMetrics
) -> LogBuffer | None:
    """What is shipped of the logs. None: nothing."""
    if settings.ship_logs == "off":
        return None
    shipping = LogShipping(least=settings.ship_logs, engine_log=_engine_log(settings))
    metrics.log_lines_dropped.set_function(lambda: shipping.buffer.dropped)
    await stack.enter_async_context(shipping.running())
    return shipping.buffer


def _engine_log(settings: NodeAgentSettings) -> Path:
    return settings.engine_log_file or settings.state_dir / "engine.log"


async def _report(
    stack: contextlib.AsyncExitStack,
    settings: NodeAgentSettings,
    supervisor: Supervisor,
    life: NodeLife,
    engine: EngineSide,
    metrics: AgentMetrics,
    weights: StoredWeights | None,
    gpus: nvml.Gpus | None,
) -> Report:
    """What this node says of itself."""
    report = Report(
        place=_place(settings, engine),
        supervisor=supervisor,
        life=life,
        api=engine.api,
        machine=LocalMachine(gpus=gpus, disk=settings.weights_dir or settings.state_dir),
        metrics=metrics,
        metrics_every_s=settings.metrics_every_s,
        weights=weights,
    )
    await stack.enter_async_context(report.running())
    return report


async def _gpus(settings: NodeAgentSettings) -> nvml.Gpus | None:
    """What accelerators the engine has. An endpoint's are none of ours."""
    return None if settings.external_url else await asyncio.to_thread(nvml.open_gpus)


async def _commands(
    stack: contextlib.AsyncExitStack, settings: NodeAgentSettings, renewal: Renewal, updates: Updates | None
) -> Commands:
    """What the registry may tell this agent to do."""
    commands = Commands(_carriers(settings, renewal, updates))
    await stack.enter_async_context(commands.running())
    return commands


async def _keep_house(
    stack: contextlib.AsyncExitStack,
    settings: NodeAgentSettings,
    cleaner: WeightsCleaner | None,
    updates: Updates | None,
    well: Callable[[], bool],
) -> None:
    """Old weights leave the disk, and a version on trial is followed."""
    if cleaner is not None:
        await stack.enter_async_context(cleaner.running())
    if updates is not None:
        await stack.enter_async_context(updates.running(well, trial_s=settings.update_trial_s))


def _is_well(heartbeat: Heartbeat, supervisor: Supervisor) -> bool:
    return heartbeat.connected and supervisor.state.status is EngineStatus.READY


def _weights(settings: NodeAgentSettings, gpus: nvml.Gpus | None) -> tuple[WeightsCleaner | None, StoredWeights | None]:
    """What keeps the weights' disk from filling, and what brings weights there; each where it is wanted."""
    stored = settings.weights_source == "store"
    root = settings.weights_dir or (settings.state_dir / "weights" if stored else None)
    if root is None:
        return None, None
    root.mkdir(parents=True, exist_ok=True)
    cleaner = WeightsCleaner(
        directory=root, keep=(settings.model, *settings.weights_keep), free_percent=settings.weights_free_percent
    )
    machine = partial(
        accelerators,
        gpus,
        name=settings.gpu_type,
        count=settings.gpu_count,
        total_bytes=settings.vram_total_bytes,
    )
    if not stored:
        return cleaner, None
    granted_file = settings.state_dir / "granted-weights.json"
    return cleaner, StoredWeights(root=root, cleaner=cleaner, granted_file=granted_file, accelerators=machine)


def _server(
    settings: NodeAgentSettings, tls: TlsFiles, metrics: Metrics, tracer: trace.Tracer | None, relay: Relay
) -> GrpcServer:
    stopping = asyncio.Event()
    server = GrpcServer(
        listen=settings.listen,
        tls=tls,
        rules=RULES,
        metrics=metrics,
        stopping=stopping,
        tracer=tracer,
        shutdown_grace_s=2.0,
    )
    servicer = NodeAgentServicer(relay=relay, stopping=stopping)
    server.add(pb, SERVICE, lambda target: rpc.add_NodeAgentServiceServicer_to_server(servicer, target))
    return server


def _supervisor(
    settings: NodeAgentSettings, engine: EngineSide, metrics: AgentMetrics, weights: StoredWeights | None
) -> Supervisor:
    command = None
    if settings.engine_command:
        command = EngineCommand(
            arguments=settings.engine_command,
            environment={**(OFFLINE_ENGINE if settings.air_gapped else {}), **settings.engine_env},
            log_file=_engine_log(settings),
            pid_file=settings.engine_pid_file or settings.state_dir / "engine.pid",
            mark=_mark(settings.state_dir / "engine.mark"),
        )
    measurement = Measurement(
        api=engine.api,
        file=settings.state_dir / "capacity.json",
        enabled=engine.measured,
        fixed_max_tokens_per_sec=engine.fixed_tokens_per_sec,
    )
    return Supervisor(
        model=settings.model,
        command=command,
        api=engine.api,
        patience=engine.patience,
        measure=measurement.capacity,
        templates=engine.templates,
        on_restart=metrics.engine_restarts.inc,
        prepare=None if weights is None else weights.prepare,
        on_loaded=metrics.model_load_seconds.set,
    )


def _updates(settings: NodeAgentSettings, restart: asyncio.Event, stop: asyncio.Event) -> Updates:
    directory = settings.update_dir
    assert directory is not None  # noqa: S101  # asked before

    def on_installed() -> None:
        restart.set()
        stop.set()

    return Updates(
        directory=directory,
        key_file=settings.update_key_file or directory / "update.pub",
        on_installed=on_installed,
        downloads=not settings.air_gapped,
    )


def _carriers(settings: NodeAgentSettings, renewal: Renewal, updates: Updates | None) -> dict[str, Carry]:
    """What the registry may tell this agent to do."""
    carriers: dict[str, Carry] = {}
    logs = LogCollector(
        {registry_pb.LOG_SOURCE_ENGINE: _engine_log(settings)}
        | ({registry_pb.LOG_SOURCE_AGENT: settings.log_file} if settings.log_file else {})
    )

    async def reload_certificate(_command: registry_pb.NodeCommand) -> Done:
        renewed = await renewal.renew()
        return Done(f"renewed until {renewed.not_after.isoformat()}")

    carriers |= {"collect_logs": logs.carry, "reload_certificate": reload_certificate}
    if updates is not None:
        carriers["update_agent"] = updates.carry
    return carriers


def _mark(file: Path) -> str:
    """What marks this agent's engines, from one start of the agent to the next."""
    if not file.exists():
        file.write_text(uuid.uuid4().hex, encoding="ascii")
    return file.read_text(encoding="ascii")


def _place(settings: NodeAgentSettings, engine: EngineSide) -> Place:
    return Place(
        address="" if settings.tunnel else settings.advertise or settings.listen,
        region=settings.region,
        model=settings.model,
        gpu_type=settings.gpu_type,
        gpu_count=settings.gpu_count,
        vram_total_bytes=settings.vram_total_bytes,
        cloud=settings.cloud,
        zone=settings.zone,
        instance_type=settings.instance_type,
        spot=settings.spot,
        hourly_price_picodollars=settings.hourly_price_picodollars,
        max_sequences=engine.max_sequences,
        model_version=settings.model_version,
    )


def main() -> None:
    """The process."""
    settings = read_settings(NodeAgentSettings, os.environ)
    configure_logging("node_agent", settings.log_level)
    codes: list[int] = []

    async def run(stop: asyncio.Event) -> None:
        codes.append(await serve(settings, stop))

    run_service(run)
    sys.exit(codes[-1] if codes else 0)
