"""Witnesses on their way from a node to the accountant."""

import asyncio
from collections.abc import Sequence

import grpc.aio

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels


class WitnessForwarder:
    """Hands witnesses on and answers only once they are durable. While the accountant is away the node waits."""

    def __init__(self, *, channels: Channels, accountant_target: str) -> None:
        """`accountant_target` is host:port."""
        self._channels = channels
        self._target = accountant_target
        self._log = get_logger(__name__)

    async def forward(self, node_id: str, witnesses: Sequence[pb.Witness]) -> list[str]:
        """One entry a witness: empty when durable, else why it was refused for good."""
        for witness in witnesses:
            witness.node_id = node_id
        request = pb.RecordWitnessesRequest(witnesses=witnesses)
        backoff = Backoff(cap_s=5.0)
        while True:
            stub: rpc.AccountantServiceAsyncStub = rpc.AccountantServiceStub(  # type: ignore[assignment,type-arg]
                self._channels.service("accountant", self._target)
            )
            try:
                response = await stub.RecordWitnesses(request, timeout=15.0)
                return list(response.refused_reasons)
            except grpc.aio.AioRpcError as error:
                self._log.warning("witnesses wait for the accountant", reason=from_rpc_error(error).private)
            await asyncio.sleep(backoff.next_s())
