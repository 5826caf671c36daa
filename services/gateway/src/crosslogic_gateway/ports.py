"""What the gateway's use cases need of the world."""

from typing import Protocol

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic_gateway.domain import Principal


class PrincipalSource(Protocol):
    """Somebody who knows whose a key is."""

    async def resolve(self, key_sha256: bytes) -> Principal:
        """The owner. Raises CodedError: INVALID_API_KEY, PERMISSION_DENIED, NOT_FOUND (a cache), UNAVAILABLE, TIMEOUT."""


class UsageSink(Protocol):
    """Where finished requests are recorded."""

    def record(self, record: accountant_pb.UsageRecord) -> None:
        """Takes the record; it becomes durable sooner or later."""
