"""Suspends keys through identity."""

import grpc.aio

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic.identity.v1 import identity_pb2_grpc as rpc
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.tls import Channels

TIMEOUT_S = 5.0


class IdentitySuspends:
    """Implements ports.Suspends."""

    def __init__(self, *, channels: Channels, target: str) -> None:
        """`target` is host:port of identity."""
        self._channels = channels
        self._target = target

    async def suspend(self, api_key_id: str, reason: str) -> None:
        """See ports.Suspends."""
        stub = rpc.IdentityServiceStub(self._channels.service("identity", self._target))
        request = pb.UpdateApiKeyRequest(
            id=api_key_id,
            status=pb.STATUS_SUSPENDED,
            status_reason=reason,
            actor=pb.Actor(kind=pb.ACTOR_KIND_SYSTEM, name="gateway: abuse"),
        )
        try:
            await stub.UpdateApiKey(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
