"""Reads again and again what machines there were; the registry keeps it, so nothing is lost while nobody reads."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from crosslogic_billing.machines.store import PostgresMachines
from crosslogic_billing.views.domain import Machine
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger

LOOK_S = 15.0
_OVERLAP = timedelta(hours=1)
"""An end that was being written while the registry was read is read the next time; clocks may differ."""


class Nodes(Protocol):
    """The registry, as far as machines' costs need it."""

    async def machines(self, since: datetime | None) -> Sequence[Machine]:
        """Machines that had not ended before `since` (None: all). Raises UNAVAILABLE, TIMEOUT."""


class MachineReader:
    """Keeps the machines' hours up to date."""

    def __init__(self, *, nodes: Nodes, store: PostgresMachines, clock: Clock) -> None:
        self._nodes = nodes
        self._store = store
        self._clock = clock
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Reads for ever."""
        while True:
            try:
                await self.read()
            except CodedError as error:
                self._log.warning("machines not read, trying again", reason=error.private or error.public)
            await asyncio.sleep(LOOK_S)

    async def read(self) -> int:
        """Reads what has changed; how many machines were told of. Raises UNAVAILABLE, TIMEOUT."""
        now = self._clock.now()
        before = await self._store.read_at()
        machines = await self._nodes.machines(None if before is None else before - _OVERLAP)
        await self._store.keep(machines, now)
        return len(machines)
