"""Two replicas of the registry on one PostgreSQL and one Redis, and what they do when Redis is away or hangs."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import grpc
import grpc.aio
import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.redis import open_redis
from crosslogic_dev.ports import free_port
from crosslogic_dev.processes import ProcessTable
from crosslogic_dev.redis import start_redis
from crosslogic_dev.run_dir import RunDir
from crosslogic_registry.fleet import RESUME_DOUBT_S
from crosslogic_registry.leases import RedisLeases, lease_key
from crosslogic_registry.node_logs import KEPT_LINES, MAX_LINES
from tests.fakes.registry_suite import RegistrySuite, watching
from tests.fakes.registry_world import heartbeat


@pytest.fixture
async def suite(pg_url: str, redis_url: str) -> AsyncIterator[RegistrySuite]:
    with tempfile.TemporaryDirectory() as folder:
        made = RegistrySuite(Path(folder), pg_url=pg_url, redis_url=redis_url, replicas=2)
        yield made
        await made.close()


async def test_a_scheduler_at_one_replica_sees_a_node_that_streams_at_the_other(suite: RegistrySuite) -> None:
    async with suite.running(0), suite.running(1), watching(suite, replica=1) as watch:
        node = await suite.join(replica=0)
        async with node.streaming() as stream:
            await watch.until(lambda nodes: nodes[node.id].status == pb.NODE_STATUS_ACTIVE)
            await stream.write(heartbeat(tokens_per_sec=77.0))
            await watch.until(lambda nodes: nodes[node.id].load.current_tokens_per_sec == 77.0)
            answer = await suite.stub(replica=1).DrainNode(pb.DrainNodeRequest(node_id=node.id))
            assert answer.node.status == pb.NODE_STATUS_DRAINING
            drained = False
            async with asyncio.timeout(5):
                while not drained:
                    drained = (await stream.read()).drain
        await watch.until(lambda nodes: not nodes[node.id].reachable, timeout_s=8)


async def test_what_a_node_logs_at_one_replica_is_read_at_the_other(suite: RegistrySuite) -> None:
    async with suite.running(0), suite.running(1):
        node = await suite.join(replica=0)
        async with node.streaming() as stream:
            for number in range(3):
                said = heartbeat()
                said.logs.dropped = number
                said.logs.lines.add(source=pb.LOG_SOURCE_AGENT, level=pb.LOG_LEVEL_INFO, text=f"agent {number}")
                said.logs.lines.add(source=pb.LOG_SOURCE_ENGINE, level=pb.LOG_LEVEL_ERROR, text=f"engine {number}")
                await stream.write(said)
                await stream.read()
            reader = suite.stub(replica=1)
            all_of_it = pb.ListNodeLogsRequest(node_id=node.id)
            async with asyncio.timeout(5):
                while len((answer := await reader.ListNodeLogs(all_of_it)).lines) < 6:
                    await asyncio.sleep(0.01)
            assert [line.text for line in answer.lines][:3] == ["agent 0", "engine 0", "agent 1"]
            assert answer.dropped == 2
            grave = pb.ListNodeLogsRequest(node_id=node.id, least_level=pb.LOG_LEVEL_WARNING)
            assert [line.text for line in (await reader.ListNodeLogs(grave)).lines] == [f"engine {n}" for n in range(3)]
            chatty = heartbeat()
            chatty.logs.lines.extend(pb.NodeLogLine(text=str(number)) for number in range(MAX_LINES))
            for _ in range(-(-KEPT_LINES // MAX_LINES) + 1):
                await stream.write(chatty)
                await stream.read()
            async with asyncio.timeout(5):
                while len((answer := await reader.ListNodeLogs(all_of_it)).lines) != KEPT_LINES or answer.dropped:
                    await asyncio.sleep(0.01)
            since = pb.ListNodeLogsRequest(node_id=node.id, cursor=answer.cursor)
            assert not (await reader.ListNodeLogs(since)).lines
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await reader.ListNodeLogs(pb.ListNodeLogsRequest(node_id=node.id, cursor="- + x"))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await reader.ListNodeLogs(pb.ListNodeLogsRequest(node_id=str(uuid4())))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_node_behind_nat_at_one_replica_hears_of_a_gateway_at_the_other(suite: RegistrySuite) -> None:
    async with suite.running(0), suite.running(1):
        node = await suite.join(replica=0)
        call = node.stub().HeartbeatStream()
        first = heartbeat()
        first.facts.CopyFrom(pb.NodeFacts(region="us-east", models=["tiny"], tunnel=True))
        await call.write(first)
        offer = suite.stub(replica=1).GatewayStream()
        await offer.write(pb.GatewayStreamRequest(tunnel_address="10.1.2.3:7000"))
        addresses: list[str] = []
        async with asyncio.timeout(20):
            while addresses != ["10.1.2.3:7000"]:
                answer = await call.read()
                if answer.HasField("tunnels"):
                    addresses = list(answer.tunnels.addresses)
            offer.cancel()
            while addresses:
                answer = await call.read()
                if answer.HasField("tunnels"):
                    addresses = list(answer.tunnels.addresses)
        call.cancel()


async def test_a_drain_taken_back_at_one_replica_is_taken_back_at_the_other(suite: RegistrySuite) -> None:
    async with suite.running(0), suite.running(1):
        node = await suite.join(replica=0)
        async with node.streaming() as stream:
            await suite.stub(replica=0).DrainNode(pb.DrainNodeRequest(node_id=node.id))
            assert (await asyncio.wait_for(stream.read(), 5)).drain
            # A drain is not taken back so soon on the word of a row that may be older.
            await asyncio.sleep(RESUME_DOUBT_S + 0.2)
            await suite.stub(replica=1).ResumeNode(pb.ResumeNodeRequest(node_id=node.id))
            assert not (await asyncio.wait_for(stream.read(), 5)).drain


async def test_a_model_made_at_one_replica_is_pushed_by_the_other(suite: RegistrySuite) -> None:
    name = f"m-{uuid4()}"
    async with suite.running(0), suite.running(1):
        call = suite.stub(replica=1).WatchModels(pb.WatchModelsRequest())
        await call.read()
        await suite.stub(replica=0).CreateModel(pb.CreateModelRequest(model=pb.Model(name=name, context_length=1)))
        async with asyncio.timeout(5):
            while name not in {model.name for model in (await call.read()).models}:
                pass
        call.cancel()


async def test_a_lease_ends_by_itself_and_only_its_writer_ends_it_early(redis_url: str) -> None:
    async with open_redis(redis_url) as redis:
        book = RedisLeases(redis, ttl_s=0.2)
        await book.write({"a": b"1", "b": b"2"})
        await book.release({"a": b"1", "b": b"another's"})
        assert await book.read(["a", "b", "c"]) == {"b": b"2"}
        assert await redis.pttl(lease_key("b")) <= 200
        await asyncio.sleep(0.25)
        assert await book.read(["b"]) == {}


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_nodes_and_schedulers_go_on_while_redis_hangs_or_is_gone(pg_url: str, number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory(prefix="cl-redis-") as folder:
        run_dir = RunDir(Path(folder) / "run")
        run_dir.make()
        table = ProcessTable(run_dir)
        redis_url = start_redis(table, run_dir, port=free_port())
        pid = table.pid("redis")
        assert pid is not None
        suite = RegistrySuite(Path(folder), pg_url=pg_url, redis_url=redis_url)
        try:
            async with suite.running(), watching(suite) as watch:
                node = await suite.join()
                async with node.streaming():
                    await watch.until(lambda nodes: nodes[node.id].status == pb.NODE_STATUS_ACTIVE)
                    os.kill(pid, number)
                    await asyncio.sleep(1.5)  # a round of leases meets it
                    late = await asyncio.wait_for(suite.join(), 3)
                    async with late.streaming():
                        await watch.until(lambda nodes: nodes[late.id].status == pb.NODE_STATUS_ACTIVE, timeout_s=3)
                    await watch.until(lambda nodes: not nodes[late.id].reachable, timeout_s=8)
                    assert watch.nodes[node.id].reachable
        finally:
            if number == signal.SIGSTOP:
                os.kill(pid, signal.SIGCONT)
            table.stop(["redis"])
            await suite.close()


async def test_the_registry_starts_as_a_process_and_ends_when_told(pg_url: str, tmp_path: Path) -> None:
    suite = RegistrySuite(tmp_path, pg_url=pg_url)
    settings = suite.settings()
    environ = {
        "PATH": os.environ["PATH"],
        "CROSSLOGIC_LISTEN": settings.listen,
        "CROSSLOGIC_JOIN_LISTEN": settings.join_listen,
        "CROSSLOGIC_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
        "CROSSLOGIC_TLS_CERT_FILE": str(settings.tls_cert_file),
        "CROSSLOGIC_TLS_KEY_FILE": str(settings.tls_key_file),
        "CROSSLOGIC_TLS_CA_FILE": str(settings.tls_ca_file),
        "CROSSLOGIC_NODE_CA_CERT_FILE": str(settings.node_ca_cert_file),
        "CROSSLOGIC_NODE_CA_KEY_FILE": str(settings.node_ca_key_file),
        "CROSSLOGIC_ACCOUNTANT_TARGET": settings.accountant_target,
        "CROSSLOGIC_MIGRATE": "1",
        "CROSSLOGIC_SHUTDOWN_GRACE_S": "1",
        "DATABASE_URL": pg_url,
    }
    process = subprocess.Popen([sys.executable, "-m", "crosslogic_registry"], env=environ)
    try:
        async with asyncio.timeout(20):
            while not await _answers(suite):
                assert process.poll() is None
                await asyncio.sleep(0.1)
        node = await suite.join()
        async with node.streaming():
            process.terminate()
            assert await asyncio.to_thread(process.wait, 10) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        await suite.close()


async def _answers(suite: RegistrySuite) -> bool:
    try:
        await suite.stub().ListNodes(pb.ListNodesRequest(), timeout=2)
    except Exception:  # noqa: BLE001  # not yet
        return False
    return True
