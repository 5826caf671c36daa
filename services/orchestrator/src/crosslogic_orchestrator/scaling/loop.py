"""Looks at every deployment, decides, and sees to it that what was decided is done. One replica at a time."""

import asyncio
import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_orchestrator.metrics import SCALED, OrchestratorMetrics
from crosslogic_orchestrator.scaling.domain import Deployment, Plan, Point, Snapshot
from crosslogic_orchestrator.scaling.forecast import Pattern
from crosslogic_orchestrator.scaling.looking import Capacity, Prices, capacity_of, history_of, look
from crosslogic_orchestrator.scaling.observing import FleetSignals
from crosslogic_orchestrator.scaling.policy import decide, remember
from crosslogic_orchestrator.scaling.records import NO_ATTEMPTS, Decided, Kept, World
from crosslogic_orchestrator.scaling.sources import NeighbourSources, Sold
from crosslogic_orchestrator.scaling.store import ScalingStore

LEASE_S = 15.0
REFRESH_S = 300.0
_LET_GO_S = 2.0
_NUMBERS = re.compile(r"[\d.,]+")


@dataclass(slots=True)
class _Memory:
    """What is remembered of a deployment between two looks."""

    points: tuple[Point, ...] = ()
    capacity: Capacity = field(default_factory=Capacity)
    pattern: Pattern = field(default_factory=Pattern)
    said: tuple[object, ...] = ()
    """What the last decision that was written down came to: the same is not written again."""


class Autoscaler:
    """Runs for ever, in every replica; who holds the lease decides."""

    def __init__(
        self,
        *,
        store: ScalingStore,
        signals: FleetSignals,
        sources: NeighbourSources,
        prices: Prices,
        clock: Clock,
        metrics: OrchestratorMetrics,
        interval_s: float,
        wake: asyncio.Event,
        work: asyncio.Event,
    ) -> None:
        """It looks every `interval_s`, and at once when `wake` is set; it sets `work` when there are new jobs."""
        self._store = store
        self._signals = signals
        self._sources = sources
        self._prices = prices
        self._clock = clock
        self._metrics = metrics
        self._interval_s = interval_s
        self._wake = wake
        self._work = work
        self._epoch = 0
        self._memory: dict[str, _Memory] = {}
        self._sold = Sold()
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Looks for ever. One that is stopped leaves the lead at once to whoever comes."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self.look_once()
                except CodedError as error:
                    self._log.warning("not scaled", code=error.code, reason=error.private or error.public)
                    # Whatever else wakes it, a neighbour that is away is not asked without a pause.
                    await asyncio.sleep(min(1.0, self._interval_s))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._wake.wait()
        finally:
            await self._let_go()

    async def refresh(self) -> None:
        """Asks the neighbours for ever: what they last said holds while they are away."""
        while True:
            complete = await self._ask_neighbours()
            await asyncio.sleep(REFRESH_S if complete else min(REFRESH_S, 5.0))

    async def look_once(self) -> None:
        """Decides for every deployment, if nobody else does. Raises UNAVAILABLE."""
        epoch = await self._store.lead(epoch=self._epoch, lease_s=LEASE_S)
        if epoch != self._epoch:
            # What was seen before the lease was lost has gaps.
            self._memory = {name: replace(known, points=()) for name, known in self._memory.items()}
        self._epoch = epoch
        if not epoch:
            # Another replica decides, and tells of it.
            self._metrics.show_desired({})
            return
        world = await self._store.world(now=self._clock.now())
        alive = {kept.deployment.id for kept in world.deployments}
        self._memory = {name: known for name, known in self._memory.items() if name in alive}
        desired = {
            (kept.deployment.model, kept.deployment.region): await self._see_to(kept, world)
            for kept in world.deployments
        }
        self._metrics.show_desired(desired)

    async def _let_go(self) -> None:
        if not self._epoch:
            return
        with contextlib.suppress(CodedError, TimeoutError):
            async with asyncio.timeout(_LET_GO_S):
                await self._store.lead(epoch=self._epoch, lease_s=0)

    def plan(self, kept: Kept, world: World, *, asked: Deployment | None = None) -> tuple[Snapshot, Plan]:
        """What would be done now, for what is `asked` or kept. Raises UNAVAILABLE."""
        memory = self._memory.get(kept.deployment.id) or _Memory()
        now = self._clock.now()
        snapshot = self._look(kept if asked is None else replace(kept, deployment=asked), world, memory, now)
        history = history_of(kept, world.attempts.get(kept.deployment.id, NO_ATTEMPTS), memory.points)
        return snapshot, decide(asked or kept.deployment, snapshot, history)

    async def _see_to(self, kept: Kept, world: World) -> int:
        """Decides for a deployment and has it done. How many machines it should have."""
        deployment, now = kept.deployment, self._clock.now()
        memory = self._memory.setdefault(deployment.id, _Memory())
        snapshot = self._look(kept, world, memory, now)
        memory.capacity = capacity_of(snapshot, memory.capacity)
        before = history_of(kept, world.attempts.get(deployment.id, NO_ATTEMPTS), memory.points)
        plan = decide(deployment, snapshot, before)
        history = remember(deployment, before, plan, now=now)
        memory.points = history.points
        said = _gist(plan, deployment)
        acts = deployment.mode == "active" and bool(plan.launches or plan.ends)
        if not acts and said == memory.said:
            return plan.desired
        decided = Decided(kept=kept, plan=plan, history=history, at=now, act=deployment.mode != "dry_run")
        if not await self._store.carry_out(decided, epoch=self._epoch):
            self._log.warning("decision is out of date", deployment_id=deployment.id)
            self._wake.set()
            return plan.desired
        memory.said = said
        for kind, count in zip(SCALED, (len(plan.launches), len(plan.ends)), strict=True):
            self._metrics.scaled.labels(kind).inc(count if acts else 0)
        self._log.info(
            "decided",
            deployment_id=deployment.id,
            desired=plan.desired,
            launches=[launch.why for launch in plan.launches],
            ends=[end.why for end in plan.ends],
            held=plan.held,
            dry_run=not decided.act,
        )
        if acts:
            self._work.set()
        return plan.desired

    def _look(self, kept: Kept, world: World, memory: _Memory, now: datetime) -> Snapshot:
        return look(
            kept,
            world,
            self._signals,
            self._prices,
            sold=self._sold,
            pattern=memory.pattern,
            capacity=memory.capacity,
            now=now,
        )

    async def _ask_neighbours(self) -> bool:
        try:
            self._sold = await self._sources.sold()
            patterns: Mapping[str, Pattern] = {
                kept.deployment.id: await self._sources.pattern(
                    kept.deployment.model, kept.deployment.region, now=self._clock.now()
                )
                for kept in await self._store.deployments()
            }
        except CodedError as error:
            self._log.warning("neighbours say nothing", code=error.code, reason=error.private or error.public)
            return False
        for name, pattern in patterns.items():
            self._memory.setdefault(name, _Memory()).pattern = pattern
        return True


def _gist(plan: Plan, deployment: Deployment) -> tuple[object, ...]:
    """What a decision comes to: figures that change with every look are no news."""
    return (
        deployment.revision,
        tuple(sorted(_NUMBERS.sub("#", held) for held in plan.held)),
        len(plan.launches) if deployment.mode == "dry_run" else 0,
        len(plan.ends) if deployment.mode == "dry_run" else 0,
    )
