"""A node for the benchmarks: `python -m benchmarks.bench_node`, started by benchmarks.stack.

It joins the real registry with a real join token, sends heartbeats, and serves the real relay protocol over mTLS; only
the engine behind it is canned, and in the same process. So the second core is left for what is measured.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.canned_engine import CannedEngine
from benchmarks.engine_http import EngineConnection
from benchmarks.node_relay import SERVICE, RelayService
from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.grpc_server import GrpcServer, run_service
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import Channels, TlsFiles, open_anonymous_channel, service_dns_name

# The unary twin has a rule and no servicer: no row asks for it.
RULES = {f"/{SERVICE}/{method}": frozenset({"service:gateway"}) for method in ("Relay", "Infer")}
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """What the node is told by its environment."""

    listen: str
    http_listen: str
    registry_target: str
    join_target: str
    join_token: str
    ca_file: Path
    state_dir: Path
    model: str
    region: str

    @classmethod
    def from_env(cls) -> "NodePlan":
        """The environment variables are BENCH_ and the fields' names."""

        def of(name: str) -> str:
            return os.environ[f"BENCH_{name}"]

        return cls(
            listen=of("LISTEN"),
            http_listen=of("HTTP_LISTEN"),
            registry_target=of("REGISTRY_TARGET"),
            join_target=of("JOIN_TARGET"),
            join_token=of("JOIN_TOKEN"),
            ca_file=Path(of("CA_FILE")),
            state_dir=Path(of("STATE_DIR")),
            model=of("MODEL"),
            region=of("REGION"),
        )


async def join(plan: NodePlan) -> tuple[str, TlsFiles]:
    """Trades the join token for an identity."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    async with open_anonymous_channel(
        plan.join_target, plan.ca_file.read_bytes(), service_dns_name("registry")
    ) as channel:
        joined = await rpc.NodeJoinServiceStub(channel).JoinNode(
            pb.JoinNodeRequest(join_token=plan.join_token, csr_der=csr.public_bytes(serialization.Encoding.DER)),
            wait_for_ready=True,
            timeout=30,
        )
    plan.state_dir.mkdir(parents=True, exist_ok=True)
    files = TlsFiles(plan.state_dir / "node.pem", plan.state_dir / "node.key", plan.state_dir / "ca.pem")
    files.cert_file.write_bytes(joined.certificate_chain_pem)
    files.ca_file.write_bytes(joined.ca_pem)
    files.key_file.touch(mode=0o600)
    files.key_file.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return joined.node_id, files


def facts(plan: NodePlan) -> pb.NodeFacts:
    """What the node says of itself."""
    return pb.NodeFacts(
        address=plan.listen,
        region=plan.region,
        models=[plan.model],
        context_length=8192,
        engine="canned",
        engine_version="1",
        agent_version="bench",
        max_tokens_per_sec=100_000.0,
        prefill_tokens_per_sec=1_000_000.0,
        decode_tokens_per_sec=1_000.0,
        engine_paths=["/v1/chat/completions", "/v1/completions"],
    )


async def heartbeats(plan: NodePlan, channels: Channels) -> None:
    """Says that it lives, at the pace the registry asks for; starts again when the registry goes away."""
    while True:
        pace_s = 1.0
        try:
            stub = rpc.RegistryServiceStub(channels.service("registry", plan.registry_target))
            stream = stub.HeartbeatStream()
            first: pb.NodeFacts | None = facts(plan)
            while True:
                await stream.write(
                    pb.HeartbeatStreamRequest(facts=first, load=pb.NodeLoad(), status=pb.NODE_STATUS_ACTIVE)
                )
                first = None
                answer = await stream.read()
                if not isinstance(answer, pb.HeartbeatStreamResponse):
                    break
                pace_s = answer.next_heartbeat_ms / 1000
                await asyncio.sleep(pace_s)
        except grpc.aio.AioRpcError as error:
            print("heartbeats lost:", error.details(), flush=True)
        await asyncio.sleep(pace_s)


@contextlib.asynccontextmanager
async def engine_listening(plan: NodePlan, engine: CannedEngine) -> AsyncIterator[None]:
    """The engine alone, for comparison."""
    host, _, port = plan.http_listen.rpartition(":")
    server = await asyncio.get_running_loop().create_server(lambda: EngineConnection(engine), host, int(port))
    try:
        yield
    finally:
        server.close()


async def serve(plan: NodePlan, stop: asyncio.Event) -> None:
    """Joins and serves until `stop` is set."""
    _, files = await join(plan)
    engine = CannedEngine()
    stopping = asyncio.Event()
    server = GrpcServer(listen=plan.listen, tls=files, rules=RULES, metrics=Metrics(), stopping=stopping)
    server.add(agent_pb, SERVICE, RelayService(engine, stopping).register)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(engine_listening(plan, engine))
        await stack.enter_async_context(server.serving())
        channels = Channels(files)
        stack.push_async_callback(channels.close)
        beating = asyncio.create_task(heartbeats(plan, channels))
        try:
            await stop.wait()
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)


def main() -> None:
    """The process."""
    plan = NodePlan.from_env()
    configure_logging("bench_node", "WARNING")
    run_service(lambda stop: serve(plan, stop))


if __name__ == "__main__":
    main()
