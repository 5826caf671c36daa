"""Reads sources and takes up what happened. Any number of replicas at a time: a cursor is moved by one of them."""

import asyncio

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_orchestrator.notify.metrics import NotifyMetrics
from crosslogic_orchestrator.notify.outbox_store import OutboxStore
from crosslogic_orchestrator.notify.ports import Source

PAGE = 200
_AWAY_S = 2.0
_LOST_S = 30.0


class Intake:
    """Follows one source."""

    def __init__(
        self,
        source: Source,
        *,
        outbox: OutboxStore,
        clock: Clock,
        metrics: NotifyMetrics,
        wake: asyncio.Event,
        interval_s: float,
    ) -> None:
        """`wake` is set when there may be something to send."""
        self._source = source
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics
        self._wake = wake
        self._interval_s = interval_s
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Reads for ever. While the source is away nothing is lost: it keeps what it has to tell."""
        failing = self._metrics.source_failing.labels(self._source.name)
        while True:
            try:
                more = await self.read_once()
                failing.set(0)
            except CodedError as error:
                failing.set(1)
                self._log.warning("source not read", source=self._source.name, reason=error.private or error.public)
                await asyncio.sleep(max(_AWAY_S, self._interval_s))
                continue
            except Exception:  # noqa: BLE001  # an event that makes no sense must not end what launches machines
                failing.set(1)
                self._log.exception("source not understood", source=self._source.name)
                await asyncio.sleep(_LOST_S)
                continue
            if not more:
                await asyncio.sleep(self._interval_s)

    async def read_once(self) -> bool:
        """Takes up a page. Whether there may be more. Raises UNAVAILABLE."""
        after = await self._outbox.cursor(self._source.name)
        events, reached = await self._source.after(after, limit=PAGE)
        if reached <= after:
            return False
        await self._outbox.take(self._source.name, events, after=after, reached=reached, now=self._clock.now())
        self._wake.set()
        return len(events) >= PAGE
