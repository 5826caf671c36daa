"""Ends machines whose node is dead and that go on costing: an agent or a kernel hangs, and no cloud tells of it.

A replacement is asked for as soon as the registry calls the node dead (`scaling`). The machine is given longer: a
node that speaks again serves again, and what is deleted is gone.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.logs import get_logger
from crosslogic_orchestrator.domain import Instance
from crosslogic_orchestrator.events import FleetEvents
from crosslogic_orchestrator.jobs import end_job
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.ports import Fleet, Store

LEAST_OF_MANY: Final = 3
"""Of so many machines and more, dead nodes on most of them are not believed."""


UNSEEN_S: Final = 10.0
"""So much later than it was due, a look cannot tell what nodes did meanwhile: we were stopped, or the database away."""
HELD: Final = "fleet_silent"
HELD_AGAIN_S: Final = 3_600.0
"""So long operators are not told again."""


def mostly_dead(dead: int, *, active: int) -> bool:
    """Whether so many dead nodes, on `active` machines, say that it is rather we who are cut off. Pure."""
    return active >= LEAST_OF_MANY and 2 * dead > active


def overdue(dead_since: Mapping[str, datetime], *, active: int, now: datetime, dead_s: float) -> list[str]:
    """Machines to end, of `active` ones: those whose node has been dead for `dead_s`. Pure.

    None, when most of the fleet looks dead: then it is rather we who are cut off.
    """
    if mostly_dead(len(dead_since), active=active):
        return []
    return sorted(each for each, since in dead_since.items() if (now - since).total_seconds() >= dead_s)


class DeadNodes:
    """Looks at every active machine's node, now and then. Every replica may: a machine is ended once."""

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        clock: Clock,
        ids: Uuid7Source,
        metrics: OrchestratorMetrics,
        events: FleetEvents,
        dead_s: float,
        interval_s: float,
    ) -> None:
        """A machine ends once its node has been dead for `dead_s`; `interval_s` lies between two looks."""
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._ids = ids
        self._metrics = metrics
        self._events = events
        self._dead_s = dead_s
        self._interval_s = interval_s
        self._since: dict[str, datetime] = {}
        self._looked_at: datetime | None = None
        self._held = False
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            try:
                await self.look_once()
            except CodedError as error:
                self._log.warning("dead nodes not looked for", code=error.code, reason=error.private or error.public)
            await asyncio.sleep(min(self._interval_s, self._dead_s))

    async def look_once(self) -> None:
        """Ends what has been dead for too long. Raises UNAVAILABLE."""
        if not self._fleet.followed:
            # What is not heard of meanwhile may have come back.
            self._since = {}
            self._metrics.dead_nodes_held.set(0)
            return
        active = {each.id: each for each in await self._store.alive() if each.state == "active"}
        now = self._clock.now()
        if self._looked_at is not None and (now - self._looked_at).total_seconds() > self._interval_s + UNSEEN_S:
            # What we know of nodes may be as old: one that has come back since would be ended.
            self._since = {}
        self._looked_at = now
        self._since = {each: self._since.get(each, now) for each in active if self._is_dead(each)}
        ends = overdue(self._since, active=len(active), now=now, dead_s=self._dead_s)
        if self._since and not ends:
            self._log.warning("nodes are dead, no machine is ended yet", dead=len(self._since), machines=len(active))
        for instance_id in ends:
            await self._end(active[instance_id], now=now)
        await self._hold(mostly_dead(len(self._since), active=len(active)), machines=len(active), now=now)

    async def _hold(self, held: bool, *, machines: int, now: datetime) -> None:
        """Says that nothing is ended though machines look dead: once, when that begins."""
        self._metrics.dead_nodes_held.set(len(self._since) if held else 0)
        if held and not self._held:
            words = (
                f"{len(self._since)} of {machines} machines look dead: their nodes are, or the registry knows of none. "
                "Rather we are cut off than they are: no machine is ended until most of them are heard of again."
            )
            await self._events.tell_once(kind=HELD, at=now, within_s=HELD_AGAIN_S, text=words)
        self._held = held

    def _is_dead(self, instance_id: str) -> bool:
        node = self._fleet.node(instance_id)
        return node is None or node.status == "dead"

    async def _end(self, instance: Instance, *, now: datetime) -> None:
        job = end_job(instance, ids=self._ids, now=now, drain_timeout_s=0.0)
        words = f"The node of the machine {instance.id} has been dead for {self._dead_s:g} s: the machine is ended."
        if await self._store.end_dead(job, words):
            self._metrics.given_up.labels(instance.spec.provider).inc()
            self._log.warning("ending a machine whose node is dead", instance_id=instance.id, job_id=job.id)
