"""Compares what providers have with what the database knows: machines that nobody knows of are deleted."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.ports import Provider, ProviderError, Store

# A provider's own machine may refuse as well: a folder that cannot be read. TimeoutError is one of these.
_FAILURES = (CodedError, ProviderError, OSError)


class Sweeper:
    """Sweeps every provider, one that hangs holding up no other."""

    def __init__(
        self,
        *,
        store: Store,
        providers: Mapping[str, Provider],
        clock: Clock,
        metrics: OrchestratorMetrics,
        interval_s: float,
        call_s: float = 120.0,
    ) -> None:
        """`interval_s` lies between two sweeps; `call_s` is how long a call to a provider may take."""
        self._store = store
        self._providers = providers
        self._clock = clock
        self._metrics = metrics
        self._interval_s = interval_s
        self._call_s = call_s
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Sweeps for ever. Several orchestrators may: deleting twice does nothing."""
        async with asyncio.TaskGroup() as group:
            for name, provider in self._providers.items():
                group.create_task(self._sweep_for_ever(name, provider), name=f"sweep {name}")

    async def _sweep_for_ever(self, name: str, provider: Provider) -> None:
        while True:
            try:
                await self.sweep(name, provider)
            except _FAILURES as error:
                self._log.warning("not swept", provider=name, reason=str(error))
            await asyncio.sleep(self._interval_s)

    async def sweep(self, name: str, provider: Provider) -> None:
        """Deletes the provider's machines that should not be, and notes the active ones that are gone."""
        async with asyncio.timeout(self._call_s):
            # Known first, then what is there: a machine that is launched in between is known to neither.
            known_before = {instance.id: instance for instance in await self._store.alive(name)}
            there = {machine.name: machine for machine in await provider.machines()}
            known_after = {instance.id for instance in await self._store.alive(name)}
        self._metrics.instances.labels(name).set(len(known_after))
        for machine_name in there.keys() - known_before.keys() - known_after:
            self._log.error("deleting a machine that no job knows of", provider=name, machine=machine_name)
            with self._one_of_many(name, machine_name):
                async with asyncio.timeout(self._call_s):
                    await provider.delete(machine_name)
                self._metrics.swept.labels(name).inc()
        for instance in known_before.values():
            if instance.state != "active" or instance.id in there or instance.id not in known_after:
                continue
            with self._one_of_many(name, instance.id):
                async with asyncio.timeout(self._call_s):
                    found = await provider.find(instance.id)
                if found.state in ("gone", "absent") and await self._store.lose(instance.id, now=self._clock.now()):
                    self._metrics.lost.labels(name).inc()
                    self._log.warning("machine is gone", provider=name, instance_id=instance.id)

    @contextlib.contextmanager
    def _one_of_many(self, provider: str, machine: str) -> Iterator[None]:
        """What cannot be done about one machine is tried with the next sweep; the others are seen to."""
        try:
            yield
        except (ProviderError, OSError) as error:
            self._log.warning("machine not seen to", provider=provider, machine=machine, reason=str(error))
