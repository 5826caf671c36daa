"""Wires together what launches machines, looks after them and ends them."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from crosslogic_common.clock import Clock
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.postgres import Pool
from crosslogic_orchestrator.dead_nodes import DeadNodes
from crosslogic_orchestrator.ends_store import EndsStore
from crosslogic_orchestrator.events import FleetEvents
from crosslogic_orchestrator.fleet import RegistryFleet
from crosslogic_orchestrator.job_log import JobLogStore
from crosslogic_orchestrator.late_ends import LateEnds
from crosslogic_orchestrator.launch_logs import LaunchLogs
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.policy import Limits
from crosslogic_orchestrator.ports import Provider
from crosslogic_orchestrator.service import OrchestratorService
from crosslogic_orchestrator.servicer import OrchestratorServicer
from crosslogic_orchestrator.settings import OrchestratorSettings
from crosslogic_orchestrator.store import CHANNEL, PostgresStore
from crosslogic_orchestrator.sweeper import Sweeper
from crosslogic_orchestrator.watching import JobChanges
from crosslogic_orchestrator.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Launching:
    """What launching is built from."""

    pool: Pool
    fleet: RegistryFleet
    providers: Mapping[str, Provider]
    clock: Clock
    metrics: OrchestratorMetrics
    wake: asyncio.Event
    """Set when a job may be able to go on."""


@dataclass(frozen=True, slots=True)
class OpenLaunching:
    """What runs and serves."""

    servicer: OrchestratorServicer
    changes: JobChanges
    """To be closed before the server stops: whoever watches a job would keep it waiting."""
    loops: list[Coroutine[Any, Any, None]]


def open_launching(settings: OrchestratorSettings, parts: Launching) -> OpenLaunching:
    """Everything about launches, over one store."""
    store = PostgresStore(parts.pool, dsn=settings.database_url.reveal())
    changes = JobChanges(wake=parts.wake)
    ids, kinds = Uuid7Source(), parts.providers.keys()
    parts.metrics.begin(kinds)
    worker = Worker(
        store=store,
        fleet=parts.fleet,
        providers=parts.providers,
        clock=parts.clock,
        limits=Limits(provision_s=settings.provision_s, load_s=settings.load_s, dead_s=settings.dead_s),
        metrics=parts.metrics,
        lane=settings.workers,
    )
    sweeper = Sweeper(
        store=store,
        providers=parts.providers,
        clock=parts.clock,
        metrics=parts.metrics,
        interval_s=settings.sweep_s,
    )
    dead_nodes = DeadNodes(
        store=store,
        fleet=parts.fleet,
        clock=parts.clock,
        ids=ids,
        metrics=parts.metrics,
        events=FleetEvents(parts.pool),
        dead_s=settings.dead_s,
        interval_s=settings.sweep_s,
    )
    launch_logs = LaunchLogs(store=JobLogStore(parts.pool, channel=CHANNEL), fleet=parts.fleet, clock=parts.clock)
    ends = EndsStore(parts.pool)
    late_ends = LateEnds(
        ends=ends, providers=kinds, clock=parts.clock, metrics=parts.metrics, interval_s=settings.sweep_s
    )
    service = OrchestratorService(
        store=store, ends=ends, fleet=parts.fleet, providers=kinds, clock=parts.clock, ids=ids
    )
    return OpenLaunching(
        OrchestratorServicer(service=service, changes=changes),
        changes,
        [
            changes.follow(store.changes()),
            sweeper.run(),
            dead_nodes.run(),
            late_ends.run(),
            launch_logs.run(),
            worker.run(wake=parts.wake),
        ],
    )
