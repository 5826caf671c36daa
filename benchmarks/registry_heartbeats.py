"""What a fleet of 10,000 nodes costs one registry process, over mTLS, on real PostgreSQL and Redis.

    .venv/bin/python -m benchmarks.registry_heartbeats [--nodes 10000] [--streams 500] [--seconds 10]

Prints one JSON object. The database holds `--nodes` active nodes. `--streams` of them really stream, each as often as
it takes to make the heartbeats of all of them at 5 s (10,000 nodes: 2,000 a second); the others are silent. One watcher
follows. Client, registry, PostgreSQL and Redis share the machine's cores.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.measure import cpu_s, percentile, rss_bytes
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.postgres import migrate
from crosslogic_common.tls import Channels, TlsMaterial, open_channel, service_dns_name
from crosslogic_dev.certificates import DevelopmentCa
from crosslogic_dev.ports import free_port
from crosslogic_dev.postgres import start_postgres
from crosslogic_dev.processes import ProcessSpec, ProcessTable
from crosslogic_dev.redis import start_redis
from crosslogic_dev.run_dir import RunDir
from crosslogic_registry.certificates import NodeCertificates

HEARTBEAT_S = 5.0
CHANGES = 100
METRICS_EVERY = 3
"""Heartbeats: one every 15 s brings the machine's metrics, and the node's health is scored anew."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured."""

    nodes: int
    streams: int
    heartbeats_per_s: int
    registry_cpu_us_per_heartbeat: float
    registry_core_share: float
    budget_core_share: float
    snapshot_s: float
    budget_snapshot_s: float
    change_seen_p50_ms: float
    change_seen_p90_ms: float
    change_seen_p99_ms: float
    budget_change_seen_p99_ms: float
    registry_rss_mib: int


def _facts() -> pb.NodeFacts:
    return pb.NodeFacts(
        address="10.0.0.1:7300",
        region="us-east",
        models=["model-0", "model-1"],
        context_length=8192,
        engine="vllm",
        engine_version="0.32.0",
        max_tokens_per_sec=4000.0,
        prefill_tokens_per_sec=20_000.0,
        decode_tokens_per_sec=60.0,
        gpu_type="NVIDIA H100",
        gpu_count=1,
        vram_total_bytes=80 * 2**30,
        engine_paths=["/v1/chat/completions", "/v1/completions"],
    )


def _heartbeat(status: "pb.NodeStatus.ValueType" = pb.NODE_STATUS_ACTIVE) -> pb.HeartbeatStreamRequest:
    load = pb.NodeLoad(running=12, kv_cache_usage=0.4, current_tokens_per_sec=900.0, generation_tokens_total=10**9)
    return pb.HeartbeatStreamRequest(load=load, status=status)


def _metrics() -> pb.NodeMetrics:
    return pb.NodeMetrics(
        gpu_utilization=0.9,
        gpu_temperature_celsius=71,
        vram_used_bytes=70 * 2**30,
        vram_total_bytes=80 * 2**30,
        prefix_cache_hit_rate=0.3,
        disk_total_bytes=2**40,
        disk_free_bytes=2**39,
        calls=40,
        first_byte_ms=180,
        tokens_per_sec=900.0,
    )


async def _fill(url: str, count: int) -> list[str]:
    await migrate(url, schema="registry", migrations=files("crosslogic_registry.migrations"))
    source, facts = Uuid7Source(), _facts().SerializeToString()
    ids = [str(source.next()) for _ in range(count)]
    async with await psycopg.AsyncConnection.connect(url) as connection, connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO registry.nodes (id, status, status_reason, facts) VALUES (%s, 'active', 'measured', %s)",
            [(node_id, facts) for node_id in ids],
        )
    return ids


class Node:
    """One node's stream, and how often it speaks."""

    def __init__(self, node_id: str, material: TlsMaterial, target: str) -> None:
        self.id = node_id
        self._channel = open_channel(target, material, service_dns_name("registry"))
        self.call: Any = rpc.RegistryServiceStub(self._channel).HeartbeatStream()
        self.sent = 0

    async def introduce(self) -> None:
        """Its first heartbeat."""
        first = _heartbeat()
        first.facts.CopyFrom(_facts())
        await self.call.write(first)
        await self.call.read()

    async def beat(self, interval_s: float, delay_s: float) -> None:
        """Speaks for ever."""
        await asyncio.sleep(delay_s)
        due = time.monotonic()
        while True:
            message = _heartbeat()
            if self.sent % METRICS_EVERY == 0:
                message.metrics.CopyFrom(_metrics())
            await self.call.write(message)
            await self.call.read()
            self.sent += 1
            due += interval_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def close(self) -> None:
        """Ends it."""
        self.call.cancel()
        await self._channel.close()


def _material(certificates: NodeCertificates, node_id: str) -> TlsMaterial:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    chain = certificates.issue(request.public_bytes(serialization.Encoding.DER), node_id, "")
    pem_key = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return TlsMaterial(chain, pem_key, certificates.trust_pem())


@contextlib.contextmanager
def _servers(run_dir: RunDir) -> Iterator[tuple[ProcessTable, str, str]]:
    table = ProcessTable(run_dir)
    try:
        yield table, start_postgres(table, run_dir, port=free_port()), start_redis(table, run_dir, port=free_port())
    finally:
        table.stop(["registry", "redis"])
        table.stop(["postgres"], number=signal.SIGINT)


def _start_registry(table: ProcessTable, ca: DevelopmentCa, url: str, redis_url: str) -> str:
    tls, port = ca.service("registry"), free_port()
    table.start(
        ProcessSpec(
            name="registry",
            argv=(sys.executable, "-m", "crosslogic_registry"),
            environ={
                "PATH": os.environ.get("PATH", ""),
                "DATABASE_URL": url,
                "REDIS_URL": redis_url,
                "CROSSLOGIC_LISTEN": f"127.0.0.1:{port}",
                "CROSSLOGIC_JOIN_LISTEN": f"127.0.0.1:{free_port()}",
                "CROSSLOGIC_ACCOUNTANT_TARGET": "127.0.0.1:1",
                "CROSSLOGIC_TLS_CERT_FILE": str(tls.cert_file),
                "CROSSLOGIC_TLS_KEY_FILE": str(tls.key_file),
                "CROSSLOGIC_TLS_CA_FILE": str(tls.ca_file),
                "CROSSLOGIC_NODE_CA_CERT_FILE": str(ca.node_ca().cert_file),
                "CROSSLOGIC_NODE_CA_KEY_FILE": str(ca.node_ca().key_file),
                "CROSSLOGIC_LOG_LEVEL": "WARNING",
                # The silent nodes stand for ones that stream: they must not die in mid-measurement.
                "CROSSLOGIC_UNHEALTHY_S": "600",
                "CROSSLOGIC_DEAD_S": "3600",
                "CROSSLOGIC_SHUTDOWN_GRACE_S": "1",
            },
        )
    )
    return f"127.0.0.1:{port}"


class Watch:
    """A scheduler's watch: how long the snapshot took, and when each change of status was seen."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.statuses: dict[str, int] = {}
        self.changed = asyncio.Condition()

    async def snapshot_s(self) -> float:
        """Takes a snapshot; how long that took."""
        started = time.perf_counter()
        async for message in self._stub.WatchNodes(pb.WatchNodesRequest()):
            if message.snapshot_complete:
                break
        return time.perf_counter() - started

    async def follow(self) -> None:
        """Follows for ever."""
        async for message in self._stub.WatchNodes(pb.WatchNodesRequest()):
            async with self.changed:
                self.statuses.update({node.id: node.status for node in message.nodes})
                self.changed.notify_all()


async def _change_seen_ms(watch: Watch, node: Node) -> list[float]:
    """A node that changes its status again and again, while all the others beat."""
    seen_ms = []
    for number in range(CHANGES):
        status = pb.NODE_STATUS_DRAINING if number % 2 == 0 else pb.NODE_STATUS_ACTIVE
        started = time.perf_counter()
        await node.call.write(_heartbeat(status))
        async with watch.changed:
            while watch.statuses.get(node.id) != status:
                await watch.changed.wait()
        seen_ms.append(1000 * (time.perf_counter() - started))
        await node.call.read()
        await asyncio.sleep(0.02)
    return sorted(seen_ms)


@contextlib.asynccontextmanager
async def _streaming(nodes: list[Node], interval_s: float) -> AsyncIterator[None]:
    beating = [
        asyncio.create_task(node.beat(interval_s, interval_s * number / len(nodes)))
        for number, node in enumerate(nodes)
    ]
    try:
        yield
    finally:
        for task in beating:
            task.cancel()
        await asyncio.gather(*beating, return_exceptions=True)


async def measure(*, nodes: int, streams: int, seconds: float) -> Result:
    """Starts everything, measures, stops everything."""
    with tempfile.TemporaryDirectory(prefix="cl-bench-") as folder:
        Path(folder).chmod(0o711)
        run_dir = RunDir(Path(folder) / "run")
        run_dir.make()
        ca = DevelopmentCa(Path(folder) / "ca")
        certificates = NodeCertificates(
            ca_cert_file=ca.node_ca().cert_file, ca_key_file=ca.node_ca().key_file, trust_file=ca.root_file
        )
        with _servers(run_dir) as (table, url, redis_url):
            ids = await _fill(url, nodes)
            target = _start_registry(table, ca, url, redis_url)
            channels = Channels(ca.service("scheduler"))
            stub = rpc.RegistryServiceStub(channels.service("registry", target))
            await stub.ListModels(pb.ListModelsRequest(), wait_for_ready=True, timeout=30)
            pid = table.pid("registry")
            assert pid is not None
            watch = Watch(stub)
            snapshot_s = min([await watch.snapshot_s() for _ in range(3)])
            beating = [Node(node_id, _material(certificates, node_id), target) for node_id in ids[: streams + 1]]
            for start in range(0, len(beating), 50):
                await asyncio.gather(*(node.introduce() for node in beating[start : start + 50]))
            following = asyncio.create_task(watch.follow())
            changing = beating.pop()
            async with _streaming(beating, streams * HEARTBEAT_S / nodes):
                await asyncio.sleep(2.0)
                sent, used, began = sum(node.sent for node in beating), cpu_s(pid), time.perf_counter()
                await asyncio.sleep(seconds)
                sent, used = sum(node.sent for node in beating) - sent, cpu_s(pid) - used
                elapsed = time.perf_counter() - began
                seen_ms = await _change_seen_ms(watch, changing)
            memory = rss_bytes(pid)
            following.cancel()
            await asyncio.gather(following, *(node.close() for node in (*beating, changing)), return_exceptions=True)
            await channels.close()
    return Result(
        nodes=nodes,
        streams=streams,
        heartbeats_per_s=round(sent / elapsed),
        registry_cpu_us_per_heartbeat=round(1e6 * used / sent, 1),
        registry_core_share=round(used / elapsed, 3),
        budget_core_share=1.0,
        snapshot_s=round(snapshot_s, 3),
        budget_snapshot_s=2.0,
        change_seen_p50_ms=round(percentile(seen_ms, 0.5), 1),
        change_seen_p90_ms=round(percentile(seen_ms, 0.9), 1),
        change_seen_p99_ms=round(percentile(seen_ms, 0.99), 1),
        budget_change_seen_p99_ms=100.0,
        registry_rss_mib=memory >> 20,
    )


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    result = asyncio.run(measure(nodes=arguments.nodes, streams=arguments.streams, seconds=arguments.seconds))
    print(json.dumps(asdict(result), indent=1))


if __name__ == "__main__":
    main()
