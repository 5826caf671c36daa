"""Watches all sources of spot notices for as long as the agent runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from crosslogic_common.clock import Clock
from crosslogic_common.logs import get_logger
from crosslogic_node_agent.spot.notice import MetadataError, NoticeKind, SpotNotice, SpotSource

RETRY_S = 1.0
"""Between two looks at a source that does not answer."""


class SpotWatch:
    """What the machine was told of its end, over all its sources."""

    def __init__(
        self,
        *,
        sources: Mapping[str, SpotSource],
        clock: Clock,
        on_change: Callable[[SpotNotice | None], None],
    ) -> None:
        """`on_change` is called with the gravest notice whenever that is another; it must not block."""
        self._sources = sources
        self._clock = clock
        self._on_change = on_change
        self._told: dict[str, SpotNotice] = {}
        self._log = get_logger(__name__)
        self.notice: SpotNotice | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watches for as long as the block lasts."""
        tasks = [
            asyncio.create_task(self._watch(name, source), name=f"spot {name}")
            for name, source in self._sources.items()
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def acknowledge(self) -> None:
        """Tells the source of the present notice that the node has left."""
        if self.notice is None:
            return
        source = self._sources.get(self.notice.source)
        if source is not None:
            try:
                await source.acknowledge()
            except MetadataError as error:
                self._log.warning("spot notice not acknowledged", source=self.notice.source, reason=str(error))

    async def _watch(self, name: str, source: SpotSource) -> None:
        failing = False
        while True:
            try:
                notice = await source.look(self._clock.now())
            except MetadataError as error:
                if not failing:
                    self._log.warning("spot notices cannot be read, trying on", source=name, reason=str(error))
                failing = True
                await asyncio.sleep(RETRY_S)
                continue
            except Exception:  # noqa: BLE001  # one strange answer must not end the watch
                self._log.exception("spot notices cannot be read, trying on", source=name)
                await asyncio.sleep(RETRY_S)
                continue
            if failing:
                self._log.info("spot notices can be read again", source=name)
            failing = False
            self._take(name, notice)
            if notice is not None and notice.kind is NoticeKind.TERMINATION:
                return
            await asyncio.sleep(source.pause_s)

    def _take(self, name: str, notice: SpotNotice | None) -> None:
        known = self._told.get(name)
        if notice is None:
            self._told.pop(name, None)
        elif known is None or known.kind is not notice.kind or known.action != notice.action:
            self._told[name] = notice
        gravest = gravest_of(list(self._told.values()))
        if gravest != self.notice:
            self.notice = gravest
            self._log.warning("spot notice", notice="withdrawn" if gravest is None else gravest.reason)
            self._on_change(gravest)


def gravest_of(notices: Sequence[SpotNotice]) -> SpotNotice | None:
    """The termination that comes first, else the oldest risk; None: there is none."""
    ends = [notice for notice in notices if notice.kind is NoticeKind.TERMINATION]
    if ends:
        return min(ends, key=lambda notice: notice.deadline_at or notice.noticed_at)
    return min(notices, key=lambda notice: notice.noticed_at, default=None)
