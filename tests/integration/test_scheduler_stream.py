"""The scheduler as gateways see it: over mutual TLS, while registries come and go."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic.scheduler.v1 import scheduler_pb2_grpc as rpc
from crosslogic_common.grpc_server import GrpcServer, method_names
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import Channels, open_anonymous_channel, open_channel, service_dns_name
from crosslogic_dev.ports import free_port
from crosslogic_scheduler.main import serve
from crosslogic_scheduler.settings import SchedulerSettings
from tests.fakes.test_ca import CertificateMaker

REGISTRY = "crosslogic.registry.v1.RegistryService"
GRACE_S = 60
"""What a scheduler waits for when it stops although it need not, shows against any machine's slowness."""


def node(number: int) -> registry_pb.Node:
    return registry_pb.Node(
        id=f"node-{number}",
        status=registry_pb.NODE_STATUS_ACTIVE,
        reachable=True,
        facts=registry_pb.NodeFacts(
            address=f"10.0.0.{number}:7300", region="us-east", models=["llama"], max_tokens_per_sec=1000
        ),
    )


@dataclass
class TellingRegistry:
    """A registry with nothing but a watch."""

    ca: CertificateMaker
    port: int
    nodes: list[registry_pb.Node]
    models: list[registry_pb.Model] = field(default_factory=list)
    watches: int = 0
    changes: list[asyncio.Queue[registry_pb.WatchNodesResponse]] = field(default_factory=list)

    def tell(self, message: registry_pb.WatchNodesResponse) -> None:
        for queue in self.changes:
            queue.put_nowait(message)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        stopping = asyncio.Event()

        async def watch(_request: object, _context: object) -> AsyncIterator[registry_pb.WatchNodesResponse]:
            self.watches += 1
            queue: asyncio.Queue[registry_pb.WatchNodesResponse] = asyncio.Queue()
            self.changes.append(queue)
            yield registry_pb.WatchNodesResponse(nodes=self.nodes, snapshot_start=True, snapshot_complete=True)
            while True:
                yield await queue.get()

        handler = grpc.unary_stream_rpc_method_handler(
            watch,
            request_deserializer=registry_pb.WatchNodesRequest.FromString,
            response_serializer=registry_pb.WatchNodesResponse.SerializeToString,
        )

        async def watch_models(_request: object, _context: object) -> AsyncIterator[registry_pb.WatchModelsResponse]:
            yield registry_pb.WatchModelsResponse(models=self.models)
            await asyncio.Event().wait()

        models_handler = grpc.unary_stream_rpc_method_handler(
            watch_models,
            request_deserializer=registry_pb.WatchModelsRequest.FromString,
            response_serializer=registry_pb.WatchModelsResponse.SerializeToString,
        )
        generic = grpc.method_handlers_generic_handler(REGISTRY, {"WatchNodes": handler, "WatchModels": models_handler})
        only_the_scheduler = frozenset({"service:scheduler"})
        server = GrpcServer(
            listen=f"127.0.0.1:{self.port}",
            tls=self.ca.service("registry"),
            rules={f"/{REGISTRY}/{name}": only_the_scheduler for name in method_names(registry_pb, REGISTRY)},
            metrics=Metrics(),
            stopping=stopping,
            shutdown_grace_s=0.0,
        )
        server.add(registry_pb, REGISTRY, lambda target: target.add_generic_rpc_handlers((generic,)))
        async with server.serving():
            yield


@dataclass
class Scheduler:
    target: str
    metrics: str
    ca: CertificateMaker
    channels: Channels
    stop: asyncio.Event
    ended: asyncio.Task[None]

    def stub(self) -> Any:
        return rpc.SchedulerServiceStub(self.channels.service("scheduler", self.target))

    async def pick(self) -> str:
        answer = await self.stub().Pick(pb.PickRequest(model="llama"), timeout=5)
        return str(answer.node_id)

    async def metric(self, name: str) -> float:
        host, _, port = self.metrics.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name + " "))


@pytest.fixture
def ca(tmp_path: Path) -> CertificateMaker:
    return CertificateMaker(tmp_path / "pki")


@pytest.fixture
def registry(ca: CertificateMaker) -> TellingRegistry:
    return TellingRegistry(ca, free_port(), [node(1)])


@pytest.fixture
async def scheduler(ca: CertificateMaker, registry: TellingRegistry) -> AsyncIterator[Scheduler]:
    tls = ca.service("scheduler")
    listen, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    settings = SchedulerSettings.from_env(
        {
            "CROSSLOGIC_LISTEN": listen,
            "CROSSLOGIC_METRICS_LISTEN": metrics,
            "CROSSLOGIC_TLS_CERT_FILE": str(tls.cert_file),
            "CROSSLOGIC_TLS_KEY_FILE": str(tls.key_file),
            "CROSSLOGIC_TLS_CA_FILE": str(tls.ca_file),
            "CROSSLOGIC_REGISTRY_TARGET": f"127.0.0.1:{registry.port}",
            "CROSSLOGIC_SHUTDOWN_GRACE_S": str(GRACE_S),
        }
    )
    stop = asyncio.Event()
    ended = asyncio.create_task(serve(settings, stop))
    channels = Channels(ca.service("gateway"))
    try:
        await asyncio.wait_for(channels.service("scheduler", listen).channel_ready(), 10)
        yield Scheduler(listen, metrics, ca, channels, stop, ended)
    finally:
        await channels.close()
        stop.set()
        await asyncio.wait_for(ended, GRACE_S)


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    until = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < until, "it did not come true"
        await asyncio.sleep(0.02)


async def status(call: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def knows_fleet(scheduler: Scheduler) -> bool:
    try:
        return bool(await scheduler.pick())
    except grpc.aio.AioRpcError:
        return False


async def test_before_the_registry_ever_answered_callers_are_told_to_try_again(scheduler: Scheduler) -> None:
    assert await status(scheduler.pick()) is grpc.StatusCode.UNAVAILABLE
    assert await scheduler.metric("crosslogic_scheduler_view_stale_seconds") > 0


async def test_every_call_of_a_message_gets_its_own_answer_or_its_own_error(
    scheduler: Scheduler, registry: TellingRegistry
) -> None:
    async with registry.serving():
        await eventually(lambda: knows_fleet(scheduler))
        stream = scheduler.stub().PickStream()
        asked = {
            7: pb.PickRequest(model="llama", region="us-east"),
            8: pb.PickRequest(model="nowhere"),
            9: pb.PickRequest(),
            10: pb.PickRequest(model="llama", excluded_node_ids=["node-1"]),
            11: pb.PickRequest(model="llama", excluded_node_ids=[f"node-{number}" for number in range(17)]),
        }
        await stream.write(
            pb.PickStreamRequest(calls=[pb.PickStreamCall(id=number, request=each) for number, each in asked.items()])
        )
        answer = await stream.read()
        assert isinstance(answer, pb.PickStreamResponse)
        got = {result.id: result for result in answer.results}
        assert got[7].response == pb.PickResponse(node_id="node-1", address="10.0.0.1:7300", region="us-east")
        assert [got[number].error.code for number in (8, 9, 10, 11)] == [
            "NO_CAPACITY", "INVALID_ARGUMENT", "NO_CAPACITY", "INVALID_ARGUMENT",
        ]  # fmt: skip
        assert got[8].error.retry_after_ms > 0
        stream.cancel()


async def test_a_dead_registry_stops_no_pick_and_a_new_one_is_followed(
    scheduler: Scheduler, registry: TellingRegistry
) -> None:
    async with registry.serving():
        await eventually(lambda: knows_fleet(scheduler))
        assert await scheduler.metric("crosslogic_scheduler_view_stale_seconds") == 0
        assert await scheduler.metric("crosslogic_scheduler_nodes") == 1

    async def stale() -> bool:
        return await scheduler.metric("crosslogic_scheduler_view_stale_seconds") > 0

    await eventually(stale)
    assert await scheduler.pick() == "node-1"
    registry.nodes = [node(2)]
    async with registry.serving():

        async def moved() -> bool:
            return await scheduler.pick() == "node-2"

        await eventually(moved)
        assert not await stale()
    assert registry.watches == 2


async def test_a_node_that_drains_gets_nothing_more_within_a_tenth_of_a_second(
    scheduler: Scheduler, registry: TellingRegistry
) -> None:
    registry.nodes = [node(1), node(2)]
    draining = node(1)
    draining.status = registry_pb.NODE_STATUS_DRAINING

    async def serve(names: set[str]) -> bool:
        # Each pick counts as load: of two nodes that serve, four picks in a row get both.
        return {await scheduler.pick() for _ in range(4)} == names

    took_s = []
    async with registry.serving():
        await eventually(lambda: knows_fleet(scheduler))
        # The best of some tries: others on the machine may delay any single one.
        for _ in range(10):
            began = time.monotonic()
            registry.tell(registry_pb.WatchNodesResponse(nodes=[draining]))
            await eventually(lambda: serve({"node-2"}))
            took_s.append(time.monotonic() - began)
            assert {await scheduler.pick() for _ in range(20)} == {"node-2"}
            if took_s[-1] < 0.1:
                break
            registry.tell(registry_pb.WatchNodesResponse(nodes=[node(1)]))
            await eventually(lambda: serve({"node-1", "node-2"}))
    assert min(took_s) < 0.1


async def test_what_gateways_tell_of_a_node_counts_and_is_not_answered(
    scheduler: Scheduler, registry: TellingRegistry
) -> None:
    registry.nodes = [node(1), node(2)]
    async with registry.serving():
        await eventually(lambda: knows_fleet(scheduler))
        stream = scheduler.stub().PickStream()
        told = [pb.NodeOutcomes(node_id="node-1", failed=3, failed_in_a_row=3), pb.NodeOutcomes(node_id="stranger")]
        await stream.write(pb.PickStreamRequest(outcomes=told))
        call = pb.PickStreamCall(id=1, request=pb.PickRequest(model="llama"))
        await stream.write(pb.PickStreamRequest(outcomes=told[:1], calls=[call]))
        answer = await stream.read()
        # The first message has no answer; the second one's outcomes count before its calls.
        assert [(result.id, result.response.node_id) for result in answer.results] == [(1, "node-2")]
        assert {await scheduler.pick() for _ in range(20)} == {"node-2"}
        assert await scheduler.metric("crosslogic_scheduler_nodes_ejected") == 1
        stream.cancel()


async def test_a_strategy_in_the_catalogue_is_followed(scheduler: Scheduler, registry: TellingRegistry) -> None:
    registry.nodes = [node(number) for number in range(1, 5)]
    registry.nodes[0].load.running = registry.nodes[1].load.running = 9
    registry.models = [registry_pb.Model(name="llama", deployments=[
        registry_pb.Deployment(strategy=registry_pb.PICK_STRATEGY_LEAST_CONNECTIONS)
    ])]  # fmt: skip
    async with registry.serving():
        await eventually(lambda: knows_fleet(scheduler))

        async def least_connections() -> bool:
            return {await scheduler.pick() for _ in range(4)} <= {"node-3", "node-4"}

        await eventually(least_connections)


async def test_only_gateways_and_operators_may_pick(
    scheduler: Scheduler, registry: TellingRegistry, tmp_path: Path
) -> None:
    name = service_dns_name("scheduler")
    stub: Any
    async with registry.serving():
        await eventually(lambda: knows_fleet(scheduler))
        request = pb.PickRequest(model="llama")
        for files in (scheduler.ca.service("identity"), scheduler.ca.node("0197f0c0-0000-7000-8000-000000000001")):
            async with open_channel(scheduler.target, files.read(), name) as channel:
                stub = rpc.SchedulerServiceStub(channel)
                assert await status(stub.Pick(request, timeout=5)) is grpc.StatusCode.PERMISSION_DENIED
        async with open_channel(scheduler.target, scheduler.ca.service("operator").read(), name) as channel:
            stub = rpc.SchedulerServiceStub(channel)
            assert (await stub.Pick(request, timeout=5)).node_id == "node-1"
            assert await status(stub.PickStream().read()) is grpc.StatusCode.PERMISSION_DENIED
        trust = scheduler.ca.ca_file.read_bytes()
        async with open_anonymous_channel(scheduler.target, trust, name) as channel:
            stub = rpc.SchedulerServiceStub(channel)
            assert await status(stub.Pick(request, timeout=5)) is grpc.StatusCode.UNAVAILABLE
        foreign = CertificateMaker(tmp_path / "foreign", name="foreign").service("gateway").read()
        async with open_channel(
            scheduler.target, type(foreign)(foreign.cert_chain, foreign.key, trust), name
        ) as channel:
            stub = rpc.SchedulerServiceStub(channel)
            assert await status(stub.Pick(request, timeout=5)) is grpc.StatusCode.UNAVAILABLE


async def test_a_stopping_scheduler_ends_open_streams_at_once(scheduler: Scheduler, registry: TellingRegistry) -> None:
    async with registry.serving():
        await eventually(lambda: knows_fleet(scheduler))
        stream = scheduler.stub().PickStream()
        # Only an answer shows that the scheduler serves the stream: one that it has not taken up yet is refused.
        await stream.write(pb.PickStreamRequest(calls=[pb.PickStreamCall(id=1, request=pb.PickRequest(model="llama"))]))
        assert (await stream.read()).results[0].response.node_id == "node-1"
        began = time.monotonic()
        scheduler.stop.set()
        assert await stream.read() is grpc.aio.EOF
        await scheduler.ended
        assert time.monotonic() - began < GRACE_S / 2
