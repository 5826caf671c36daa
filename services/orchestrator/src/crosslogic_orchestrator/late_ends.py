"""Tells of machines whose end does not come about, and of those whose provider is not configured any more.

An end is tried for ever, for a machine that is left is paid for: so somebody must be told that it does not come about.
"""

import asyncio
from collections.abc import Collection
from typing import Final

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_orchestrator.domain import LateEnd
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.ports import Ends

LATE_S: Final = 900.0
"""So long an end may be tried before people are told."""


class LateEnds:
    """Looks now and then. Every replica may: people are told once of a machine."""

    def __init__(
        self,
        *,
        ends: Ends,
        providers: Collection[str],
        clock: Clock,
        metrics: OrchestratorMetrics,
        interval_s: float,
        late_s: float = LATE_S,
    ) -> None:
        """`providers` are those that are configured; `interval_s` lies between two looks."""
        self._ends = ends
        self._providers = providers
        self._clock = clock
        self._metrics = metrics
        self._interval_s = interval_s
        self._late_s = late_s
        self._strange: frozenset[str] = frozenset()
        self._shown: set[str] = set()
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Looks for ever. Ends that were late because nobody worked on them have until the second look."""
        look = self.count_once
        while True:
            try:
                await look()
            except CodedError as error:
                self._log.warning("late ends not looked for", code=error.code, reason=error.private or error.public)
            await asyncio.sleep(self._interval_s)
            look = self.look_once

    async def look_once(self) -> None:
        """Counts them, and tells of those that nobody was told of. Raises UNAVAILABLE."""
        await self.count_once()
        for end in await self._ends.untold(late_s=self._late_s):
            if await self._ends.tell(end, self._told(end), now=self._clock.now()):
                self._log.error("a machine's end does not come about", instance_id=end.instance_id, reason=end.words)

    async def count_once(self) -> None:
        """Shows how many there are, and says when one's provider is not configured. Raises UNAVAILABLE."""
        alive, late = await self._ends.alive(), await self._ends.late(late_s=self._late_s)
        # One that has none any more is shown with 0; what it was before would stay.
        self._shown |= {*self._providers, *alive}
        for provider in self._shown:
            self._metrics.not_ended.labels(provider).set(late.get(provider, 0))
            if provider not in self._providers:
                # Nobody sweeps there.
                self._metrics.instances.labels(provider).set(alive.get(provider, 0))
        strange = frozenset(alive.keys() - self._providers)
        for provider in sorted(strange - self._strange):
            self._log.error(
                "machines of a provider that is not configured cannot be ended",
                provider=provider,
                machines=alive[provider],
            )
        self._strange = strange

    def _told(self, end: LateEnd) -> str:
        words = (
            f"The machine {end.instance_id} ({end.model}, {end.provider} in {end.region}) does not end. That is "
            f"tried since {end.since:%Y-%m-%d %H:%M} UTC, and what is left of it may be paid for. "
            f"Last said: {end.words or 'nothing'}"
        )
        if end.provider in self._providers:
            return words
        return (
            f"{words} {end.provider} is not configured: configure it again, or end the machine there and then give it "
            f"up with `crosslogic instances terminate {end.instance_id} --abandon`."
        )
