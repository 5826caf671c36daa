"""Wires the registry together and serves it."""

import asyncio
import contextlib
import os
from importlib.resources import files

from opentelemetry import trace
from redis.asyncio import Redis

from crosslogic.registry.v1 import model_store_pb2 as model_store_pb
from crosslogic.registry.v1 import model_store_pb2_grpc as model_store_rpc
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic.registry.v1 import upgrades_pb2 as upgrades_pb
from crosslogic.registry.v1 import upgrades_pb2_grpc as upgrades_rpc
from crosslogic_common.clock import SystemClock
from crosslogic_common.grpc_server import GrpcServer, StartError, read_settings, run_service
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import Pool, migrate, open_pool
from crosslogic_common.redis import open_redis
from crosslogic_common.tls import Channels
from crosslogic_common.tracing import tracing
from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.place import Place
from crosslogic_registry.catalogue import Catalogue
from crosslogic_registry.certificates import NodeCertificates
from crosslogic_registry.change_log import ChangeLog
from crosslogic_registry.command_relay import CommandRelay
from crosslogic_registry.command_store import PostgresCommands
from crosslogic_registry.commands import NodeCommands
from crosslogic_registry.domain import Silence
from crosslogic_registry.fleet import Fleet
from crosslogic_registry.gateways import Gateways
from crosslogic_registry.joining import Joining
from crosslogic_registry.leases import LeaseRounds, RedisLeases
from crosslogic_registry.lives import PostgresLives
from crosslogic_registry.model_store.service import ModelStore
from crosslogic_registry.model_store.servicer import ModelStoreServicer
from crosslogic_registry.model_store.smoke import NodeSmokeTest
from crosslogic_registry.model_store.store import PostgresModelStore
from crosslogic_registry.node_logs import NodeLogs
from crosslogic_registry.node_metrics import NodeMetricsCollector
from crosslogic_registry.observations import Observations
from crosslogic_registry.prober import GrpcProbe, Prober
from crosslogic_registry.replicas import ReplicaNews
from crosslogic_registry.servicer import NodeJoinServicer, RegistryServicer
from crosslogic_registry.settings import RegistrySettings
from crosslogic_registry.silence_watch import SilenceWatch
from crosslogic_registry.stopping import unless_stopping
from crosslogic_registry.store import PostgresStore
from crosslogic_registry.upgrades.service import Upgrades
from crosslogic_registry.upgrades.servicer import ModelUpgradeServicer
from crosslogic_registry.upgrades.store import PostgresUpgrades
from crosslogic_registry.watchers import Watchers
from crosslogic_registry.witnesses import AccountantWitnesses, WitnessForwarder

SERVICE = "crosslogic.registry.v1.RegistryService"
UPGRADE_SERVICE = "crosslogic.registry.v1.ModelUpgradeService"
MODEL_STORE_SERVICE = "crosslogic.registry.v1.ModelStoreService"
JOIN_SERVICE = "crosslogic.registry.v1.NodeJoinService"
_NODE = frozenset({"node"})
_ADMIN = frozenset({"service:gateway", "service:operator"})
_WATCHER = frozenset({"service:scheduler", "service:gateway", "service:orchestrator", "service:operator"})
_LAUNCHER = _ADMIN | {"service:orchestrator"}

RULES: dict[str, frozenset[str]] = (
    {
        f"/{SERVICE}/{method}": callers
        for method, callers in {
            "CreateJoinToken": _LAUNCHER,
            "RenewCertificate": _NODE,
            "HeartbeatStream": _NODE,
            "WitnessStream": _NODE,
            "WatchNodes": _WATCHER,
            "ListNodes": _ADMIN,
            "ListNodeLives": frozenset({"service:billing", "service:operator"}),
            "DrainNode": _LAUNCHER,
            "ResumeNode": _ADMIN,
            "CommandNode": frozenset({"service:operator"}),
            "ListNodeEvents": _ADMIN,
            "ListNodeLogs": _LAUNCHER,
            "GatewayStream": frozenset({"service:gateway"}),
            "CreateModel": _ADMIN,
            "ReplaceDeployments": _ADMIN,
            "ListModels": _WATCHER,
            "WatchModels": _WATCHER,
        }.items()
    }
    | {
        f"/{UPGRADE_SERVICE}/{method}": _ADMIN
        for method in ("CreateModelUpgrade", "GetModelUpgrade", "ListModelUpgrades", "RollBackModelUpgrade")
    }
    | {
        f"/{MODEL_STORE_SERVICE}/{method}": callers
        for method, callers in {
            "AddModelVersion": _ADMIN,
            "ListModelVersions": _ADMIN,
            "GrantWeights": _LAUNCHER,
            "GetWeights": _NODE,
            "RegisterModel": _ADMIN,
            "DeregisterModel": _ADMIN,
            "SetModelEnabled": _ADMIN,
            "PromoteModel": _ADMIN,
            "RollBackModel": _ADMIN,
            "CheckFit": _LAUNCHER,
            "ListRegisteredModels": _ADMIN,
        }.items()
    }
)
# Nodes are not trusted with more memory than their messages need, and strangers with next to none.
MAX_REQUEST_BYTES = 8 * 1024 * 1024
MAX_JOIN_BYTES = 64 * 1024
JOIN_RULES = {f"/{JOIN_SERVICE}/JoinNode": frozenset({"anonymous"})}


async def serve(settings: RegistrySettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    dsn = settings.database_url.reveal()
    if settings.migrate:
        await migrate(dsn, schema="registry", migrations=files("crosslogic_registry.migrations"))
    metrics = Metrics()
    observations = Observations(metrics.registry)
    stopping = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        tracer = stack.enter_context(tracing("registry"))
        pool = await stack.enter_async_context(open_pool(dsn, schema="registry", max_size=settings.pool_size))
        ids = Uuid7Source()
        origin = str(ids.next())
        store = PostgresStore(pool)
        opened = await unless_stopping(_open_fleet(stack, settings, store, origin, observations), stop)
        if opened is None:
            return
        fleet, silence, gateways, redis = opened
        logs = NodeLogs(redis=redis, observations=observations)
        await stack.enter_async_context(logs.running())
        upgrades = await _open_upgrades(stack, settings, pool, fleet, gateways)
        commands = await _open_commands(stack, settings, pool, fleet, ids=ids, origin=origin)
        metrics.registry.register(NodeMetricsCollector(fleet))
        catalogue = Catalogue(store=store, dsn=dsn)
        await stack.enter_async_context(catalogue.running())
        channels = Channels(settings.tls)
        stack.push_async_callback(channels.close)
        witnesses = WitnessForwarder(
            sink=AccountantWitnesses(channels=channels, target=settings.accountant_target), observations=observations
        )
        await stack.enter_async_context(witnesses.running())
        models = _model_store(settings, pool, fleet, smoke=NodeSmokeTest(channels, ids))
        joining = _joining(settings, store, fleet, ids=ids, origin=origin)
        await stack.enter_async_context(Prober(silence=silence, probe=GrpcProbe(channels)).running())
        servicer = RegistryServicer(
            fleet=fleet,
            commands=commands,
            gateways=gateways,
            logs=logs,
            lives=PostgresLives(pool),
            joining=joining,
            catalogue=catalogue,
            witnesses=witnesses,
            stopping=stopping,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
        )
        server, join_server = _servers(
            settings=settings,
            servicer=servicer,
            join_servicer=NodeJoinServicer(joining),
            upgrade_servicer=ModelUpgradeServicer(upgrades),
            model_servicer=ModelStoreServicer(models),
            metrics=metrics,
            stopping=stopping,
            tracer=tracer,
        )
        ending = asyncio.create_task(_end_sessions(fleet, stopping), name="end of sessions")
        stack.callback(ending.cancel)
        await stack.enter_async_context(join_server.serving())
        await stack.enter_async_context(server.serving())
        await stop.wait()
        # Before the servers stop in turn: each waits for its streams.
        stopping.set()


def _place(settings: RegistrySettings) -> Place | None:
    try:
        return settings.place()
    except ModelStoreError as error:
        raise StartError(str(error)) from None


async def _open_fleet(
    stack: contextlib.AsyncExitStack,
    settings: RegistrySettings,
    store: PostgresStore,
    origin: str,
    observations: Observations,
) -> tuple[Fleet, SilenceWatch, Gateways, Redis | None]:
    """The fleet as last known, with everything that keeps it up to date; and Redis, where there is one."""
    clock = SystemClock()
    silence = Silence(
        suspect_s=settings.suspect_s,
        unhealthy_s=settings.unhealthy_s,
        dead_s=settings.dead_s,
        forgotten_s=settings.forgotten_s,
    )
    changes = ChangeLog(store=store, origin=origin, observations=observations)
    await stack.enter_async_context(changes.running())
    fleet = Fleet(
        store=store,
        changes=changes,
        watchers=Watchers(),
        clock=clock,
        silence=silence,
        origin=origin,
        observations=observations,
    )
    await fleet.load()
    news = ReplicaNews(
        fleet=fleet,
        store=store,
        dsn=settings.database_url.reveal(),
        origin=origin,
        forgotten_s=settings.forgotten_s,
    )
    await stack.enter_async_context(news.running())
    watch = SilenceWatch(fleet=fleet, clock=clock, silence=silence, observations=observations)
    gateways = Gateways(fleet=fleet, silence=watch)
    redis = None
    if settings.redis_url:
        redis = await stack.enter_async_context(open_redis(settings.redis_url.reveal()))
        book = RedisLeases(redis, ttl_s=settings.unhealthy_s)
        rounds = LeaseRounds(fleet=fleet, book=book, observations=observations, gateways=gateways, origin=origin)
        await stack.enter_async_context(rounds.running())
    await stack.enter_async_context(watch.running())
    return fleet, watch, gateways, redis


async def _open_upgrades(
    stack: contextlib.AsyncExitStack, settings: RegistrySettings, pool: Pool, fleet: Fleet, gateways: Gateways
) -> Upgrades:
    """Upgrades of models, which go by what gateways observe."""
    upgrades = Upgrades(
        store=PostgresUpgrades(pool),
        nodes=fleet,
        clock=SystemClock(),
        heartbeat_s=settings.heartbeat_interval_ms / 1000,
    )
    gateways.also = upgrades.observed
    await stack.enter_async_context(upgrades.running())
    return upgrades


async def _open_commands(
    stack: contextlib.AsyncExitStack,
    settings: RegistrySettings,
    pool: Pool,
    fleet: Fleet,
    *,
    ids: Uuid7Source,
    origin: str,
) -> NodeCommands:
    """Commands to nodes; to one that holds its session with another replica, through that one."""
    dsn = settings.database_url.reveal()
    relay = CommandRelay(store=PostgresCommands(pool), fleet=fleet, dsn=dsn, origin=origin)
    commands = NodeCommands(fleet=fleet, ids=ids, ask_others=relay.ask)
    await stack.enter_async_context(relay.running(commands.carry_out))
    return commands


def _model_store(settings: RegistrySettings, pool: Pool, fleet: Fleet, *, smoke: NodeSmokeTest) -> ModelStore:
    return ModelStore(
        store=PostgresModelStore(pool),
        nodes=fleet,
        smoke=smoke,
        clock=SystemClock(),
        place=_place(settings),
        url_valid_s=settings.weights_url_s,
    )


def _joining(
    settings: RegistrySettings, store: PostgresStore, fleet: Fleet, *, ids: Uuid7Source, origin: str
) -> Joining:
    return Joining(
        store=store,
        fleet=fleet,
        certificates=NodeCertificates(
            ca_cert_file=settings.node_ca_cert_file,
            ca_key_file=settings.node_ca_key_file,
            trust_file=settings.tls_ca_file,
            validity_s=settings.node_certificate_validity_s,
        ),
        clock=SystemClock(),
        ids=ids,
        origin=origin,
    )


def _servers(
    *,
    settings: RegistrySettings,
    servicer: RegistryServicer,
    join_servicer: NodeJoinServicer,
    upgrade_servicer: ModelUpgradeServicer,
    model_servicer: ModelStoreServicer,
    metrics: Metrics,
    stopping: asyncio.Event,
    tracer: trace.Tracer | None,
) -> tuple[GrpcServer, GrpcServer]:
    """The server for those who have a certificate, and the one where machines get theirs."""
    server = GrpcServer(
        listen=settings.listen,
        tls=settings.tls,
        rules=RULES,
        metrics=metrics,
        stopping=stopping,
        tracer=tracer,
        shutdown_grace_s=settings.shutdown_grace_s,
        max_request_bytes=MAX_REQUEST_BYTES,
    )
    server.add(pb, SERVICE, lambda target: rpc.add_RegistryServiceServicer_to_server(servicer, target))
    server.add(
        upgrades_pb,
        UPGRADE_SERVICE,
        lambda target: upgrades_rpc.add_ModelUpgradeServiceServicer_to_server(upgrade_servicer, target),
    )
    server.add(
        model_store_pb,
        MODEL_STORE_SERVICE,
        lambda target: model_store_rpc.add_ModelStoreServiceServicer_to_server(model_servicer, target),
    )
    join_server = GrpcServer(
        listen=settings.join_listen,
        tls=settings.tls,
        rules=JOIN_RULES,
        metrics=metrics,
        stopping=stopping,
        tracer=tracer,
        shutdown_grace_s=settings.shutdown_grace_s,
        client_certificates=False,
        max_request_bytes=MAX_JOIN_BYTES,
    )
    join_server.add(pb, JOIN_SERVICE, lambda target: rpc.add_NodeJoinServiceServicer_to_server(join_servicer, target))
    return server, join_server


async def _end_sessions(fleet: Fleet, stopping: asyncio.Event) -> None:
    """Nodes whose replica stops go to another; their streams would keep the server waiting."""
    await stopping.wait()
    fleet.end_sessions()


def main() -> None:
    """The process."""
    settings = read_settings(RegistrySettings, os.environ)
    configure_logging("registry", settings.log_level)
    run_service(lambda stop: serve(settings, stop))
