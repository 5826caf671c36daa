"""Publishes every row of the usage ledger, at least once, in its order."""

from collections.abc import Sequence
from typing import Protocol

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic_billing.events import message
from crosslogic_billing.work import work_for_ever

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

    async def run(self) -> None:
        """Publishes for ever."""
        await work_for_ever(
            self.publish_page,
            name=__name__,
            trouble="usage events not published, trying again",
            idle_s=IDLE_S,
            cap_s=30.0,
        )

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
