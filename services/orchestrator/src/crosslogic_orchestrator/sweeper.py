"""Compares what providers have with what the database knows: machines that nobody knows of are deleted."""

import asyncio
import contextlib
from collections.abc import Mapping

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.ports import Provider, ProviderError, Store

_LISTING_S = 120.0


class Sweeper:
    """Sweeps every provider in turn."""

    def __init__(
        self,
        *,
        store: Store,
        providers: Mapping[str, Provider],
        clock: Clock,
        metrics: OrchestratorMetrics,
        interval_s: float,
    ) -> None:
        """`interval_s` lies between two sweeps."""
        self._store = store
        self._providers = providers
        self._clock = clock
        self._metrics = metrics
        self._interval_s = interval_s
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Sweeps for ever. Several orchestrators may: deleting twice does nothing."""
        while True:
            for name, provider in self._providers.items():
                try:
                    await self.sweep(name, provider)
                except (CodedError, ProviderError, TimeoutError) as error:
                    self._log.warning("not swept", provider=name, reason=str(error))
            await asyncio.sleep(self._interval_s)

    async def sweep(self, name: str, provider: Provider) -> None:
        """Deletes the provider's machines that should not be, and notes the active ones that are gone."""
        async with asyncio.timeout(_LISTING_S):
            # Known first, then what is there: a machine that is launched in between is known to neither.
            known_before = {instance.id: instance for instance in await self._store.alive(name)}
            there = {machine.name: machine for machine in await provider.machines()}
            known_after = {instance.id for instance in await self._store.alive(name)}
        self._metrics.instances.labels(name).set(len(known_after))
        for machine_name in there.keys() - known_before.keys() - known_after:
            self._log.error("deleting a machine that no job knows of", provider=name, machine=machine_name)
            with contextlib.suppress(ProviderError):
                await provider.delete(machine_name)
                self._metrics.swept.labels(name).inc()
        for instance in known_before.values():
            if instance.state != "active" or instance.id in there or instance.id not in known_after:
                continue
            if (await provider.find(instance.id)).state in ("gone", "absent") and await self._store.lose(
                instance.id, now=self._clock.now()
            ):
                self._metrics.lost.labels(name).inc()
                self._log.warning("machine is gone", provider=name, instance_id=instance.id)
