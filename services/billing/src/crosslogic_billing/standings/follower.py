"""Follows identity: reads again and again what has changed; it keeps it all, so nothing is lost while nobody reads."""

from datetime import datetime, timedelta
from typing import Protocol

from crosslogic_billing.metrics import BillingMetrics
from crosslogic_billing.standings import policy
from crosslogic_billing.standings.domain import Changes, Present
from crosslogic_billing.standings.learning import Learner
from crosslogic_billing.standings.store import PostgresStandings
from crosslogic_billing.work import work_for_ever
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError

LOOK_S = 5.0
_OVERLAP = timedelta(hours=1)
"""A change that was being written while identity was read is read the next time; clocks may differ."""


class Identity(Protocol):
    """Identity, as far as terms need it."""

    async def changes(self, since: datetime | None) -> Changes:
        """What has changed since then (None: ever), in order. Raises UNAVAILABLE, TIMEOUT."""

    async def present(self) -> Present:
        """How everything is now. Raises UNAVAILABLE, TIMEOUT."""


class Follower:
    """Keeps standings as identity has them."""

    def __init__(
        self,
        *,
        identity: Identity,
        learner: Learner,
        store: PostgresStandings,
        clock: Clock,
        metrics: BillingMetrics,
    ) -> None:
        self._identity = identity
        self._learner = learner
        self._store = store
        self._clock = clock
        self._metrics = metrics

    async def run(self) -> None:
        """Reads for ever."""

        async def step() -> bool:
            try:
                await self.read()
            except CodedError:
                await self._tell_age()
                raise
            return False

        await work_for_ever(step, name=__name__, trouble="identity not read, trying again", idle_s=LOOK_S)

    async def read(self) -> int:
        """Reads what has changed; how many changes were new. Raises UNAVAILABLE, TIMEOUT."""
        now = self._clock.now()
        before = await self._store.read_at()
        changes = await self._identity.changes(None if before is None else before - _OVERLAP)
        new = await self._learner.learn(changes, now)
        await self._tell_age()
        return new

    async def drifted(self) -> tuple[int, set[str]]:
        """How many organisations identity has, and those that stand otherwise here. Raises UNAVAILABLE, TIMEOUT.

        What changes while it is compared is no drift: it is compared twice, and must differ both times.
        """
        found: list[set[str]] = []
        count = 0
        for _ in range(2):
            at_identity = await self._identity.present()
            count = len(at_identity.orgs)
            await self.read()
            found.append(policy.drift(at_identity, await self._store.present()))
            if not found[-1]:
                break
        return count, set.intersection(*found)

    async def _tell_age(self) -> None:
        read_at = await self._store.read_at()
        if read_at is not None:
            self._metrics.terms_age((self._clock.now() - read_at).total_seconds())
