"""What watching for abuse needs of the world."""

from typing import Protocol


class Suspends(Protocol):
    """Suspends a key for good reason."""

    async def suspend(self, api_key_id: str, reason: str) -> None:
        """Suspends it, everywhere, and writes down why. Raises CodedError."""
