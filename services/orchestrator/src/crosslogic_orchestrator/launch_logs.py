"""Reads what machines log while they are launched, so that whoever follows a launch sees why it takes long or fails."""

import asyncio

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_orchestrator.job_log import JobLogStore
from crosslogic_orchestrator.ports import Fleet

_LOOK_S = 1.0
_AWAY_S = 5.0


class LaunchLogs:
    """Runs in every replica, beside the workers: no launch waits for its log."""

    def __init__(self, *, store: JobLogStore, fleet: Fleet, clock: Clock) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Reads for ever."""
        while True:
            try:
                await self.look_once()
            except CodedError as error:
                self._log.info("logs of launches not read", reason=error.private or error.public)
                await asyncio.sleep(_AWAY_S)
            except Exception:  # noqa: BLE001  # what a machine logs must not end what launches others
                self._log.exception("logs of launches not understood")
                await asyncio.sleep(_AWAY_S)
            await asyncio.sleep(_LOOK_S)

    async def look_once(self) -> None:
        """Adds what is new to the jobs. Raises UNAVAILABLE, TIMEOUT."""
        for each in await self._store.followed():
            if self._fleet.node(each.node_id) is None:
                continue
            try:
                lines, cursor = await self._fleet.log_lines(each.node_id, cursor=each.cursor)
            except CodedError as error:
                if error.code in (ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT):
                    raise
                # It was removed meanwhile, for example: the others' logs are read.
                continue
            if cursor != each.cursor:
                await self._store.keep(each, lines, cursor=cursor, now=self._clock.now())
