"""How this machine becomes a node, and stays one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc.aio

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.grpc_server import StartError
from crosslogic_common.logs import get_logger
from crosslogic_common.settings import Secret
from crosslogic_common.tls import Channels, open_anonymous_channel, service_dns_name
from crosslogic_node_agent.identity import Certificate, IdentityFiles, is_valid

_RPC_S = 10.0
_FOR_GOOD = frozenset({ErrorCode.JOIN_TOKEN_INVALID, ErrorCode.INVALID_ARGUMENT, ErrorCode.PERMISSION_DENIED})


async def join(
    *, files: IdentityFiles, join_target: str, token: Secret, bootstrap_ca: bytes, stop: asyncio.Event
) -> Certificate:
    """The node's certificate: the one it has while that is valid, else one for the join token.

    `bootstrap_ca` (PEM) is what the registry must be signed by. A registry that cannot be reached is asked again until
    `stop` is set, with the same key: so it knows a join whose answer was lost. Raises StartError when the token is
    missing or refused.
    """
    held = files.certificate()
    if held is not None and is_valid(held):
        return held
    if not token:
        raise StartError(
            "This machine has no valid certificate: set CROSSLOGIC_JOIN_TOKEN to a new join token "
            "(an operator makes one with RegistryService.CreateJoinToken)."
        )
    log = get_logger(__name__)
    request = pb.JoinNodeRequest(join_token=token.reveal(), csr_der=files.request())
    backoff = Backoff(base_s=0.2, cap_s=10.0)
    while not stop.is_set():
        channel = open_anonymous_channel(join_target, bootstrap_ca, service_dns_name("registry"))
        try:
            stub: rpc.NodeJoinServiceAsyncStub = rpc.NodeJoinServiceStub(channel)
            answer = await stub.JoinNode(request, timeout=_RPC_S)
            files.store(answer.certificate_chain_pem, answer.ca_pem)
            joined = files.certificate()
            if joined is None:
                raise StartError("The registry's answer to the join holds no certificate of this node's key.")
            log.info("joined", node_id=joined.node.name, org_id=joined.node.org_id or "any")
            return joined
        except grpc.aio.AioRpcError as error:
            coded = from_rpc_error(error)
            if coded.code in _FOR_GOOD:
                raise StartError(f"The registry refused the join: {coded.public}") from None
            log.warning("registry not reached, joining again", reason=coded.private or coded.public)
        finally:
            await channel.close(None)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), backoff.next_s())
    raise StartError("Stopped before this machine had joined.")


class Renewal:
    """Renews the certificate at half of its life; servers and channels take the new file up by themselves."""

    def __init__(self, *, files: IdentityFiles, channels: Channels, registry_target: str, clock: Clock) -> None:
        self._files = files
        self._channels = channels
        self._target = registry_target
        self._clock = clock
        self._log = get_logger(__name__)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Renews for as long as the block lasts."""
        task = asyncio.create_task(self._live(), name="renewal")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def renew(self) -> Certificate:
        """Renews now. Raises CodedError."""
        stub: rpc.RegistryServiceAsyncStub = rpc.RegistryServiceStub(self._channels.service("registry", self._target))
        try:
            answer = await stub.RenewCertificate(
                pb.RenewCertificateRequest(csr_der=self._files.request()), timeout=_RPC_S
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        self._files.store(answer.certificate_chain_pem, answer.ca_pem)
        renewed = self._files.certificate()
        if renewed is None:
            raise CodedError(ErrorCode.INTERNAL, private="the renewed certificate is not for this node's key")
        return renewed

    async def _live(self) -> None:
        backoff = Backoff(base_s=1.0, cap_s=60.0)
        while True:
            held = self._files.certificate()
            due_s = (held.half_life() - self._clock.now()).total_seconds() if held is not None else 0.0
            if due_s > 0:
                # A machine that slept through its half life must not sleep on.
                await asyncio.sleep(min(due_s, 60.0))
                continue
            try:
                renewed = await self.renew()
                backoff.reset()
                self._log.info("certificate renewed", until=renewed.not_after.isoformat())
            except CodedError as error:
                self._log.warning("certificate not renewed, trying again", reason=error.private or error.public)
                await asyncio.sleep(backoff.next_s())
