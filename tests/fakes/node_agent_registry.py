"""A registry as a node sees it: joining, renewal, heartbeats, witnesses; over real mTLS."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.grpc_server import GrpcServer
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import node_dns_name, node_spiffe_id, peer_identity
from tests.fakes.test_ca import CertificateMaker

SERVICE = "crosslogic.registry.v1.RegistryService"
JOIN_SERVICE = "crosslogic.registry.v1.NodeJoinService"
TOKEN = "cljt_test-token-of-one-use"
Context = grpc.aio.ServicerContext[Any, Any]


class FakeRegistry(rpc.RegistryServiceServicer, rpc.NodeJoinServiceServicer):
    def __init__(self, folder: Path, *, validity_s: float = 3600.0) -> None:
        self.ca = CertificateMaker(folder / "ca")
        self.tls = self.ca.service("registry")
        self._validity = timedelta(seconds=validity_s)
        self.node_id = str(uuid.uuid4())
        self.tokens = {TOKEN}
        self.joins = 0
        self.renewals = 0
        self.beats: list[pb.HeartbeatStreamRequest] = []
        self.witnesses: list[accountant_pb.Witness] = []
        self.drain = False
        self.interval_ms = 100
        self._pushes: set[asyncio.Queue[pb.HeartbeatStreamResponse]] = set()
        self.acknowledge = asyncio.Event()
        self.acknowledge.set()
        self.port = 0
        self.join_port = 0

    async def JoinNode(self, request: pb.JoinNodeRequest, context: Context) -> pb.JoinNodeResponse:
        if request.join_token not in self.tokens:
            raise CodedError(ErrorCode.JOIN_TOKEN_INVALID)
        self.tokens.discard(request.join_token)
        self.joins += 1
        return pb.JoinNodeResponse(
            node_id=self.node_id,
            certificate_chain_pem=self.issue(request.csr_der),
            ca_pem=self.ca.ca_file.read_bytes(),
        )

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Context
    ) -> pb.RenewCertificateResponse:
        caller = peer_identity(context)
        assert caller is not None
        assert caller.name == self.node_id
        self.renewals += 1
        return pb.RenewCertificateResponse(
            certificate_chain_pem=self.issue(request.csr_der), ca_pem=self.ca.ca_file.read_bytes()
        )

    async def HeartbeatStream(
        self, request_iterator: AsyncIterator[pb.HeartbeatStreamRequest], context: Context
    ) -> AsyncIterator[pb.HeartbeatStreamResponse]:
        queue: asyncio.Queue[pb.HeartbeatStreamResponse] = asyncio.Queue()
        self._pushes.add(queue)

        async def hear() -> None:
            async for beat in request_iterator:
                self.beats.append(beat)
                queue.put_nowait(self._answer())

        hearing = asyncio.create_task(hear())
        try:
            while not hearing.done() or not queue.empty():
                waiting = asyncio.create_task(queue.get())
                await asyncio.wait([hearing, waiting], return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    yield waiting.result()
                waiting.cancel()
        finally:
            hearing.cancel()
            self._pushes.discard(queue)

    def _answer(self, *commands: pb.NodeCommand) -> pb.HeartbeatStreamResponse:
        return pb.HeartbeatStreamResponse(next_heartbeat_ms=self.interval_ms, drain=self.drain, commands=commands)

    def push(self, *commands: pb.NodeCommand) -> None:
        """Tells the node now."""
        for queue in self._pushes:
            queue.put_nowait(self._answer(*commands))

    async def WitnessStream(
        self, request_iterator: AsyncIterator[pb.WitnessStreamRequest], context: Context
    ) -> AsyncIterator[pb.WitnessStreamResponse]:
        async for message in request_iterator:
            await self.acknowledge.wait()
            self.witnesses += [call.witness for call in message.calls]
            yield pb.WitnessStreamResponse(results=[pb.WitnessStreamResult(id=call.id) for call in message.calls])

    async def _elsewhere(self, request: Any, context: Context) -> Any:
        raise AssertionError("no node calls this")

    CreateJoinToken = CreateModel = DrainNode = ListModels = ListNodes = _elsewhere
    ResumeNode = CommandNode = ListNodeEvents = ListNodeLives = ListNodeLogs = ReplaceDeployments = _elsewhere
    WatchModels = WatchNodes = GatewayStream = _elsewhere  # type: ignore[assignment]  # nor these, which would yield

    def issue(self, csr_der: bytes) -> bytes:
        """A node certificate that is at the start of its life."""
        now = datetime.now(UTC)
        names = [
            x509.UniformResourceIdentifier(node_spiffe_id(self.node_id, "")),
            x509.DNSName(node_dns_name(self.node_id)),
        ]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.certificate.subject)
            .public_key(x509.load_der_x509_csr(csr_der).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=1))
            .not_valid_after(now + self._validity)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self.ca._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    async def status(self, status: pb.NodeStatus.ValueType, *, timeout_s: float = 15.0) -> pb.HeartbeatStreamRequest:
        """The next heartbeat from now on that says `status`."""
        return await self.beat(lambda beat: beat.status == status, timeout_s=timeout_s)

    async def beat(
        self, wanted: Callable[[pb.HeartbeatStreamRequest], bool], *, timeout_s: float = 15.0
    ) -> pb.HeartbeatStreamRequest:
        """The next heartbeat from now on that is `wanted`."""
        seen = len(self.beats)
        async with asyncio.timeout(timeout_s):
            while True:
                for beat in self.beats[seen:]:
                    if wanted(beat):
                        return beat
                seen = len(self.beats)
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serves at the ports it had before, if any."""
        stopping = asyncio.Event()
        node = frozenset({"node"})
        rules = {
            f"/{SERVICE}/{method.name}": node for method in pb.DESCRIPTOR.services_by_name["RegistryService"].methods
        }
        join_rules = {f"/{JOIN_SERVICE}/JoinNode": frozenset({"anonymous"})}
        server = GrpcServer(
            listen=f"127.0.0.1:{self.port}",
            tls=self.tls,
            rules=rules,
            metrics=Metrics(),
            stopping=stopping,
            shutdown_grace_s=0.0,
        )
        server.add(pb, SERVICE, lambda target: rpc.add_RegistryServiceServicer_to_server(self, target))
        joining = GrpcServer(
            listen=f"127.0.0.1:{self.join_port}",
            tls=self.tls,
            rules=join_rules,
            metrics=Metrics(),
            stopping=stopping,
            shutdown_grace_s=0.0,
            client_certificates=False,
        )
        joining.add(pb, JOIN_SERVICE, lambda target: rpc.add_NodeJoinServiceServicer_to_server(self, target))
        async with server.serving(), joining.serving():
            self.port = server.port
            self.join_port = joining.port
            yield
