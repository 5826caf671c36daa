"""What the gateway's use cases need of the world."""

from typing import Protocol

from crosslogic_gateway.domain import Principal


class PrincipalSource(Protocol):
    """Somebody who knows whose a key is."""

    async def resolve(self, key_sha256: bytes) -> Principal:
        """The owner. Raises INVALID_API_KEY, TENANT_SUSPENDED, NOT_FOUND (a cache), UNAVAILABLE or TIMEOUT."""
