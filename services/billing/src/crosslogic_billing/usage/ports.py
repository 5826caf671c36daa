"""What settling needs of the world."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from crosslogic_billing.usage.domain import Bucket, Page


class Ledger(Protocol):
    """The accountant's usage ledger."""

    async def read(self, after_sequence: int, limit: int) -> Page:
        """Rows after a sequence, in order. Asking says that everything up to it is settled here."""


class UsageStore(Protocol):
    """Windows and the cursor, durable."""

    async def cursor(self) -> int:
        """The last sequence that was settled."""

    async def categories(self, version_ids: Sequence[str]) -> dict[str, str]:
        """Of price versions, by id; those that are not known are left out."""

    async def add(
        self,
        *,
        after: int,
        upto: int,
        counted: Mapping[Bucket, int],
        uncharged: Mapping[tuple[str, datetime], int],
        window_s: int,
    ) -> bool:
        """Adds to windows and moves the cursor, both or neither. False: somebody else has moved it."""
