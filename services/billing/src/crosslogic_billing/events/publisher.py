"""Publishes every row of the usage ledger, at least once, in its order."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic_billing.events import message
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger

PAGE_ROWS = 2_000
IDLE_S = 1.0


class Rows(Protocol):
    """The ledger's rows as they are."""

    async def entries(self, after_sequence: int, limit: int) -> Sequence[pb.LedgerEntry]:
        """Rows after a sequence, in order. Raises UNAVAILABLE."""


class Cursors(Protocol):
    """How far the ledger was settled and published."""

    async def cursor(self, name: str = "usage") -> int:
        """The last sequence."""

    async def move(self, name: str, *, after: int, upto: int) -> bool:
        """Moves a cursor. False: somebody else has moved it."""


class Sink(Protocol):
    """Where events go."""

    async def publish(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Publishes keys and values. Raises UNAVAILABLE unless all of them are safe."""


class Publisher:
    """Follows behind settling."""

    def __init__(self, *, rows: Rows, cursors: Cursors, sink: Sink) -> None:
        self._rows = rows
        self._cursors = cursors
        self._sink = sink
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Publishes for ever."""
        backoff = Backoff(base_s=0.2, cap_s=30.0)
        while True:
            try:
                more = await self.publish_page()
            except CodedError as error:
                self._log.warning("usage events not published, trying again", reason=error.private or error.public)
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            if not more:
                await asyncio.sleep(IDLE_S)

    async def publish_page(self) -> bool:
        """One page. Whether more waits."""
        # Asking the ledger for rows says that those before them are settled: publishing never overtakes settling.
        settled = await self._cursors.cursor()
        after = await self._cursors.cursor("kafka")
        if after >= settled:
            return False
        entries = [entry for entry in await self._rows.entries(after, PAGE_ROWS) if after < entry.sequence <= settled]
        if not entries:
            return False
        await self._sink.publish([(message.key(entry), message.value(entry)) for entry in entries])
        # Only now: whoever dies before this publishes the page again.
        await self._cursors.move("kafka", after=after, upto=entries[-1].sequence)
        return entries[-1].sequence < settled
