"""What the price book needs of the world."""

from datetime import datetime
from typing import Protocol

from crosslogic_billing.prices.domain import Market, NewPrices, PriceVersion


class PriceStore(Protocol):
    """Price versions and markets, durable."""

    async def markets(self) -> list[Market]:
        """All markets, by name."""

    async def add(self, asked: NewPrices) -> list[PriceVersion]:
        """Makes a version a market, ending those that were open, and announces it.

        A `request_id` seen before: the versions that it made. Raises CONFLICT when a later version is there, and
        INVALID_ARGUMENT for a market that is not.
        """

    async def page(self, model: str, after: str, limit: int) -> list[PriceVersion]:
        """Versions with greater ids than `after`, by id; of one model unless it is empty."""

    async def book(self, since: datetime, limit: int) -> list[PriceVersion]:
        """Every version that had not ended at `since`, by line and time; at most `limit`."""
