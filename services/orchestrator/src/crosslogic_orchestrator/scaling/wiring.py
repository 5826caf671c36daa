"""Builds the autoscaler and its API."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from crosslogic_common.clock import Clock
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.postgres import Pool
from crosslogic_common.process import StartError
from crosslogic_common.tls import Channels
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.scaling.catalogue import CatalogueError, read_catalogue
from crosslogic_orchestrator.scaling.looking import Prices
from crosslogic_orchestrator.scaling.loop import Autoscaler
from crosslogic_orchestrator.scaling.observing import FleetSignals
from crosslogic_orchestrator.scaling.service import Deployments, Models
from crosslogic_orchestrator.scaling.servicer import DeploymentServicer
from crosslogic_orchestrator.scaling.sources import NeighbourSources
from crosslogic_orchestrator.scaling.store import ScalingStore
from crosslogic_orchestrator.settings import OrchestratorSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What scaling is built from."""

    pool: Pool
    channels: Channels
    signals: FleetSignals
    models: Models
    providers: frozenset[str]
    clock: Clock
    metrics: OrchestratorMetrics
    wake: asyncio.Event
    """Set when there is something to decide at once."""
    work: asyncio.Event
    """Set when there are new jobs."""


@dataclass(frozen=True, slots=True)
class OpenScaling:
    """What runs and serves."""

    autoscaler: Autoscaler
    servicer: DeploymentServicer


def open_scaling(settings: OrchestratorSettings, parts: Scaling) -> OpenScaling:
    """Raises StartError for a price catalogue that cannot be read."""
    ids = Uuid7Source()
    store = ScalingStore(parts.pool, ids=ids)
    autoscaler = Autoscaler(
        store=store,
        signals=parts.signals,
        sources=NeighbourSources(
            channels=parts.channels,
            identity_target=settings.identity_target,
            accountant_target=settings.accountant_target,
        ),
        prices=_prices(settings, parts.providers),
        clock=parts.clock,
        metrics=parts.metrics,
        interval_s=settings.scale_s,
        wake=parts.wake,
        work=parts.work,
    )
    deployments = Deployments(
        store=store, autoscaler=autoscaler, models=parts.models, clock=parts.clock, ids=ids, wake=parts.wake
    )
    return OpenScaling(autoscaler, DeploymentServicer(deployments))


def _prices(settings: OrchestratorSettings, providers: frozenset[str]) -> Prices:
    if not settings.price_folder:
        return Prices(kinds=(), providers=providers)
    try:
        kinds = read_catalogue(Path(settings.price_folder), settings.regions)
    except CatalogueError as error:
        raise StartError(f"CROSSLOGIC_PRICE_CATALOGUE_DIR: {error}") from None
    return Prices(kinds=tuple(kind for kind in kinds if kind.provider in providers), providers=providers)
