"""A registry as its neighbours meet it: the whole service, its sockets and certificates, in the test's own process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as accountant_rpc
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.errors import CODE_METADATA
from crosslogic_common.grpc_server import GrpcServer, method_names
from crosslogic_common.metrics import Metrics
from crosslogic_common.settings import Secret
from crosslogic_common.tls import Channels, TlsFiles, open_anonymous_channel, service_dns_name
from crosslogic_dev.certificates import DevelopmentCa
from crosslogic_dev.ports import free_port
from crosslogic_registry.main import serve
from crosslogic_registry.settings import RegistrySettings
from tests.fakes.registry_ca import make_csr
from tests.fakes.registry_world import facts, heartbeat

ACCOUNTANT = "crosslogic.accountant.v1.AccountantService"


def code_of(error: grpc.aio.AioRpcError) -> str:
    """The suite's code of a failed RPC."""
    return str(dict(error.trailing_metadata() or ()).get(CODE_METADATA, error.code().name))


class FakeAccountant(accountant_rpc.AccountantServiceServicer):
    """Keeps the witnesses that it is given."""

    def __init__(self) -> None:
        self.witnesses: list[accountant_pb.Witness] = []

    async def RecordWitnesses(self, request: Any, context: Any) -> accountant_pb.RecordWitnessesResponse:
        self.witnesses += request.witnesses
        return accountant_pb.RecordWitnessesResponse(
            refused_reasons=["bad seal" if sent.sealed_context == b"bad" else "" for sent in request.witnesses]
        )


class JoinedNode:
    """A machine with a node's certificate."""

    def __init__(self, node_id: str, tls: TlsFiles, target: str) -> None:
        self.id = node_id
        self.tls = tls
        self.channels = Channels(tls)
        self._target = target

    def stub(self) -> Any:
        return rpc.RegistryServiceStub(self.channels.service("registry", self._target))

    @contextlib.asynccontextmanager
    async def streaming(self, status: str = "ACTIVE", **others: object) -> AsyncIterator[Any]:
        """Its heartbeat stream, after the first answer."""
        call = self.stub().HeartbeatStream()
        first = heartbeat(status)
        first.facts.CopyFrom(facts(**others))
        await call.write(first)
        assert (await asyncio.wait_for(call.read(), 5)).next_heartbeat_ms == 5_000
        try:
            yield call
        finally:
            call.cancel()


class RegistrySuite:
    """Replicas of the registry on one database, and whoever calls them."""

    def __init__(self, folder: Path, *, pg_url: str, redis_url: str = "", replicas: int = 1) -> None:
        self.ca = DevelopmentCa(folder / "ca")
        self.pg_url = pg_url
        self.redis_url = redis_url
        self.ports = [free_port() for _ in range(replicas)]
        self.join_ports = [free_port() for _ in range(replicas)]
        self.accountant_port = free_port()
        self.accountant = FakeAccountant()  # type: ignore[abstract]
        self._folder = folder
        self._channels: dict[str, Channels] = {}
        self._nodes: list[JoinedNode] = []

    def settings(self, replica: int = 0, **others: Any) -> RegistrySettings:
        files, node_ca = self.ca.service("registry"), self.ca.node_ca()
        values: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.ports[replica]}",
            "join_listen": f"127.0.0.1:{self.join_ports[replica]}",
            "metrics_listen": "",
            "log_level": "INFO",
            "shutdown_grace_s": 2.0,
            "tls_cert_file": files.cert_file,
            "tls_key_file": files.key_file,
            "tls_ca_file": files.ca_file,
            "migrate": True,
            "database_url": Secret(self.pg_url),
            "redis_url": Secret(self.redis_url),
            "accountant_target": f"127.0.0.1:{self.accountant_port}",
            "node_ca_cert_file": node_ca.cert_file,
            "node_ca_key_file": node_ca.key_file,
            "node_certificate_validity_s": 3600.0,
            "heartbeat_interval_ms": 5_000,
            "suspect_s": 1.0,
            "unhealthy_s": 15.0,
            "dead_s": 60.0,
            "forgotten_s": 86_400.0,
            "pool_size": 4,
            "r2_account_id": "",
            "s3_endpoint": "",
            "s3_region": "auto",
            "r2_access_key_id": Secret(""),
            "r2_secret_access_key": Secret(""),
            "r2_bucket_name": "",
            "weights_url_s": 3600,
        }
        return RegistrySettings(**{**values, **others})

    @contextlib.asynccontextmanager
    async def running(self, replica: int = 0, **others: Any) -> AsyncIterator[None]:
        """One replica, until the block ends."""
        stop = asyncio.Event()
        task = asyncio.create_task(serve(self.settings(replica, **others), stop))
        try:
            for _ in range(500):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await self.stub(replica=replica).ListNodes(pb.ListNodesRequest(), timeout=5)
                    break
                if task.done():
                    break
                await asyncio.sleep(0.02)
            yield
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)

    @contextlib.asynccontextmanager
    async def accountant_running(self) -> AsyncIterator[None]:
        """The accountant, until the block ends."""
        server = GrpcServer(
            listen=f"127.0.0.1:{self.accountant_port}",
            tls=self.ca.service("accountant"),
            rules={
                f"/{ACCOUNTANT}/{method}": frozenset({"service:registry"})
                for method in method_names(accountant_pb, ACCOUNTANT)
            },
            metrics=Metrics(),
            stopping=asyncio.Event(),
            shutdown_grace_s=1.0,
        )
        server.add(
            accountant_pb,
            ACCOUNTANT,
            lambda target: accountant_rpc.add_AccountantServiceServicer_to_server(self.accountant, target),
        )
        async with server.serving():
            yield

    def stub(self, caller: str = "gateway", *, replica: int = 0) -> Any:
        """The registry as `caller` reaches it."""
        channels = self._channels.setdefault(caller, Channels(self.ca.service(caller)))
        return rpc.RegistryServiceStub(channels.service("registry", f"127.0.0.1:{self.ports[replica]}"))

    async def token(self, org_id: str = "") -> str:
        """A fresh join token."""
        made = await self.stub().CreateJoinToken(pb.CreateJoinTokenRequest(org_id=org_id))
        return str(made.join_token)

    async def ask_to_join(self, token: str, csr_der: bytes, *, replica: int = 0) -> pb.JoinNodeResponse:
        """JoinNode as a machine without a certificate calls it."""
        channel = open_anonymous_channel(
            f"127.0.0.1:{self.join_ports[replica]}", self.ca.root_file.read_bytes(), service_dns_name("registry")
        )
        async with channel:
            response: pb.JoinNodeResponse = await rpc.NodeJoinServiceStub(channel).JoinNode(
                pb.JoinNodeRequest(join_token=token, csr_der=csr_der), timeout=10
            )
        return response

    async def join(self, org_id: str = "", *, replica: int = 0) -> JoinedNode:
        """A machine that became a node."""
        key = ec.generate_private_key(ec.SECP256R1())
        joined = await self.ask_to_join(await self.token(org_id), make_csr(key), replica=replica)
        return self.install(joined.node_id, joined.certificate_chain_pem, joined.ca_pem, key, replica=replica)

    def install(
        self, node_id: str, chain: bytes, ca_pem: bytes, key: ec.EllipticCurvePrivateKey, *, replica: int = 0
    ) -> JoinedNode:
        """A machine with these files."""
        stem = self._folder / f"node-{len(self._nodes)}"
        tls = TlsFiles(stem.with_suffix(".pem"), stem.with_suffix(".key"), stem.with_suffix(".ca"))
        tls.cert_file.write_bytes(chain)
        tls.ca_file.write_bytes(ca_pem)
        tls.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        node = JoinedNode(node_id, tls, f"127.0.0.1:{self.ports[replica]}")
        self._nodes.append(node)
        return node

    async def close(self) -> None:
        """Closes all channels."""
        for channels in (*self._channels.values(), *(node.channels for node in self._nodes)):
            await channels.close()


class FleetWatch:
    """What a scheduler knows by its watch."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.nodes: dict[str, pb.Node] = {}
        self.snapshots = 0

    async def until(self, reached: Any, timeout_s: float = 5.0) -> None:
        """Reads on until `reached(nodes)`."""
        async with asyncio.timeout(timeout_s):
            while self.snapshots == 0 or not self._reached(reached):
                self._take(await self._call.read())

    def _reached(self, reached: Any) -> bool:
        try:
            return bool(reached(self.nodes))
        except KeyError:  # not known yet
            return False

    def _take(self, message: pb.WatchNodesResponse) -> None:
        if message.snapshot_start:
            self.nodes.clear()
        self._keep(message.nodes)
        for node_id in message.removed_node_ids:
            self.nodes.pop(node_id, None)
        self.snapshots += message.snapshot_complete

    def _keep(self, nodes: Sequence[pb.Node]) -> None:
        self.nodes.update({node.id: node for node in nodes})


@contextlib.asynccontextmanager
async def watching(suite: RegistrySuite, *, replica: int = 0) -> AsyncIterator[FleetWatch]:
    """A scheduler's watch."""
    call = suite.stub("scheduler", replica=replica).WatchNodes(pb.WatchNodesRequest())
    try:
        yield FleetWatch(call)
    finally:
        call.cancel()
