"""The gRPC server and channels on real sockets: who gets in, what callers see, how a server ends."""

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.grpc_server import GrpcServer, StartError
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import (
    CHANNEL_OPTIONS,
    TLS13_ENVIRONMENT,
    Channels,
    open_anonymous_channel,
    open_channel,
    service_dns_name,
)
from tests.fakes.registry_server import JOIN_SERVICE, SERVICE, ToldJoinServicer, ToldRegistry, everybody_may
from tests.fakes.tcp_proxy import TcpProxy
from tests.fakes.test_ca import CertificateMaker

NODE_ID = "0197f0c0-0000-7000-8000-000000000001"


@pytest.fixture
def ca(tmp_path: Path) -> CertificateMaker:
    return CertificateMaker(tmp_path / "pki")


@contextlib.asynccontextmanager
async def calling(ca: CertificateMaker, registry: ToldRegistry) -> AsyncIterator[Any]:
    """The registry as the gateway sees it."""
    channels = Channels(ca.service("gateway"))
    try:
        yield rpc.RegistryServiceStub(channels.service("registry", registry.target))
    finally:
        await channels.close()


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_right_certificate_gets_an_answer_on_tls_1_3(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"))
    seen: list[Any] = []

    async def answer(context: Any) -> pb.ListModelsResponse:
        seen.append(context.auth_context()["ssl_tls_version"])
        return pb.ListModelsResponse()

    registry.servicer.list_models = answer
    async with registry.server.serving(), calling(ca, registry) as stub:
        await stub.ListModels(pb.ListModelsRequest(), timeout=5)
    assert seen == [[b"TLSv1.3"]]


async def test_caller_without_a_certificate_is_refused(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"))
    async with registry.server.serving():
        channel = open_anonymous_channel(registry.target, ca.ca_file.read_bytes(), service_dns_name("registry"))
        async with channel:
            error = await refusal(rpc.RegistryServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_certificate_of_another_ca_is_refused(ca: CertificateMaker, tmp_path: Path) -> None:
    foreign = CertificateMaker(tmp_path / "foreign", name="foreign").service("gateway").read()
    registry = ToldRegistry(ca.service("registry"))
    material = type(foreign)(foreign.cert_chain, foreign.key, ca.ca_file.read_bytes())
    async with (
        registry.server.serving(),
        open_channel(registry.target, material, service_dns_name("registry")) as channel,
    ):
        error = await refusal(rpc.RegistryServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("caller", ["node", "scheduler", "two names", "dns name like a service", "unknown scheme"])
async def test_right_ca_but_wrong_caller_is_refused_before_the_servicer_runs(ca: CertificateMaker, caller: str) -> None:
    ours = "spiffe://crosslogic/service/gateway"
    files = {
        "node": lambda: ca.node(NODE_ID),
        "scheduler": lambda: ca.service("scheduler"),
        "two names": lambda: ca.issue("x", uris=[ours, "spiffe://crosslogic/service/operator"], dns_names=["x.y"]),
        "dns name like a service": lambda: ca.issue("x", uris=[], dns_names=[ours]),
        "unknown scheme": lambda: ca.issue("x", uris=["https://crosslogic/service/gateway"], dns_names=["x.y"]),
    }[caller]()
    rules = {method: frozenset({"service:gateway"}) for method in everybody_may()}
    registry = ToldRegistry(ca.service("registry"), rules=rules)
    ran: list[str] = []

    async def answer(_context: Any) -> pb.ListModelsResponse:
        ran.append("ListModels")
        return pb.ListModelsResponse()

    registry.servicer.list_models = answer
    channels = Channels(files)
    async with registry.server.serving():
        stub = rpc.RegistryServiceStub(channels.service("registry", registry.target))
        error = await refusal(stub.ListModels(pb.ListModelsRequest(), timeout=5))
        stream_error = await refusal(stub.WatchNodes(pb.WatchNodesRequest(), timeout=5).read())
        await channels.close()
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert stream_error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert from_rpc_error(error).code is ErrorCode.PERMISSION_DENIED
    assert "spiffe" not in str(error.details())
    assert not ran


async def test_node_cannot_pose_as_a_service(ca: CertificateMaker) -> None:
    impostor = ToldRegistry(ca.node(NODE_ID))
    async with impostor.server.serving(), calling(ca, impostor) as stub:
        error = await refusal(stub.ListModels(pb.ListModelsRequest(), timeout=5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_joining_needs_no_certificate_and_everything_else_does(ca: CertificateMaker) -> None:
    server = GrpcServer(
        listen="127.0.0.1:0",
        tls=ca.service("registry"),
        rules={f"/{JOIN_SERVICE}/JoinNode": frozenset({"anonymous"})},
        metrics=Metrics(),
        stopping=asyncio.Event(),
        shutdown_grace_s=1,
        client_certificates=False,
    )
    server.add(pb, JOIN_SERVICE, lambda target: rpc.add_NodeJoinServiceServicer_to_server(ToldJoinServicer(), target))
    async with server.serving():
        target = f"127.0.0.1:{server.port}"
        async with open_anonymous_channel(target, ca.ca_file.read_bytes(), service_dns_name("registry")) as channel:
            await rpc.NodeJoinServiceStub(channel).JoinNode(pb.JoinNodeRequest(), timeout=5)
            error = await refusal(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5))
            flood = pb.JoinNodeRequest(join_token="x" * 1_000_000)
            flooded = await refusal(rpc.NodeJoinServiceStub(channel).JoinNode(flood, timeout=5))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert flooded.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_coded_error_reaches_the_caller_whole(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"))

    async def refuse(_context: Any) -> pb.ListModelsResponse:
        raise CodedError(ErrorCode.RATE_LIMITED, "Slow down.", private="org 7", retry_after_s=1.5, param="model")

    registry.servicer.list_models = refuse
    async with registry.server.serving(), calling(ca, registry) as stub:
        error = await refusal(stub.ListModels(pb.ListModelsRequest(), timeout=5))
    told = from_rpc_error(error)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (told.code, told.public, told.retry_after_s, told.param) == (
        ErrorCode.RATE_LIMITED,
        "Slow down.",
        1.5,
        "model",
    )


async def test_unknown_failure_tells_the_caller_nothing_private_in_unary_and_stream(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"))

    async def fail(_context: Any) -> pb.ListModelsResponse:
        raise RuntimeError("password=hunter2")

    async def fail_stream(_context: Any) -> AsyncIterator[pb.WatchNodesResponse]:
        yield pb.WatchNodesResponse()
        raise RuntimeError("password=hunter2")

    registry.servicer.list_models = fail
    registry.servicer.watch_nodes = fail_stream
    async with registry.server.serving(), calling(ca, registry) as stub:
        with capture_logs() as logs:
            unary = await refusal(stub.ListModels(pb.ListModelsRequest(), timeout=5))
            stream = stub.WatchNodes(pb.WatchNodesRequest(), timeout=5)
            assert isinstance(await stream.read(), pb.WatchNodesResponse)
            streamed = await refusal(stream.read())
    for error in (unary, streamed):
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "hunter2" not in repr(error)
    assert [entry["event"] for entry in logs] == ["rpc failed", "rpc failed"]


async def test_caller_without_a_deadline_is_not_served_for_ever(
    ca: CertificateMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosslogic_common.interceptor.DEFAULT_DEADLINE_S", 0.1)
    registry = ToldRegistry(ca.service("registry"))

    async def hang(_context: Any) -> pb.ListModelsResponse:
        await asyncio.sleep(60)
        return pb.ListModelsResponse()

    registry.servicer.list_models = hang
    async with registry.server.serving(), calling(ca, registry) as stub:
        error = await asyncio.wait_for(refusal(stub.ListModels(pb.ListModelsRequest())), 5)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert from_rpc_error(error).code is ErrorCode.TIMEOUT


async def test_servicer_stops_working_when_its_caller_goes_away(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"))
    ended = asyncio.Event()

    async def hang(_context: Any) -> pb.ListModelsResponse:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return pb.ListModelsResponse()

    registry.servicer.list_models = hang
    async with registry.server.serving(), calling(ca, registry) as stub:
        error = await refusal(stub.ListModels(pb.ListModelsRequest(), timeout=0.2))
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.sleep(0)
        counted = registry.metrics.text().decode()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert f'crosslogic_rpcs_total{{code="CANCELLED",method="/{SERVICE}/ListModels"}} 1.0' in counted


async def test_stream_frees_what_it_holds_as_soon_as_its_caller_goes_away(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"))
    freed = asyncio.Event()

    async def watch(_context: Any) -> AsyncIterator[pb.WatchNodesResponse]:
        try:
            yield pb.WatchNodesResponse()
            await asyncio.sleep(60)
        finally:
            freed.set()

    registry.servicer.watch_nodes = watch
    async with registry.server.serving(), calling(ca, registry) as stub:
        stream = stub.WatchNodes(pb.WatchNodesRequest())
        await stream.read()
        stream.cancel()
        await asyncio.wait_for(freed.wait(), 2)


async def test_stream_tells_its_caller_that_it_is_connected_before_there_is_news(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"))

    async def quiet(_context: Any) -> AsyncIterator[pb.WatchNodesResponse]:
        await asyncio.sleep(60)
        yield pb.WatchNodesResponse()

    registry.servicer.watch_nodes = quiet
    async with registry.server.serving(), calling(ca, registry) as stub:
        stream = stub.WatchNodes(pb.WatchNodesRequest())
        await asyncio.wait_for(stream.initial_metadata(), 2)
        stream.cancel()


class Ending:
    """A served registry whose end the test begins, and watches."""

    def __init__(self, registry: ToldRegistry) -> None:
        self._serving = registry.server.serving()

    async def begin(self) -> None:
        await self._serving.__aenter__()

    def end(self) -> "asyncio.Task[bool | None]":
        return asyncio.create_task(self._serving.__aexit__(None, None, None))


async def test_shutdown_lets_a_running_call_finish_and_takes_no_new_one(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"), grace_s=5)
    running = asyncio.Event()
    finish = asyncio.Event()

    async def slow(_context: Any) -> pb.ListModelsResponse:
        running.set()
        await finish.wait()
        return pb.ListModelsResponse(next_page_token="whole")

    registry.servicer.list_models = slow
    serving = Ending(registry)
    await serving.begin()
    async with calling(ca, registry) as stub:
        call = asyncio.ensure_future(stub.ListModels(pb.ListModelsRequest(), timeout=10))
        await running.wait()
        ending = serving.end()
        await registry.stopping.wait()
        await asyncio.sleep(0.1)
        late = await refusal(stub.ListModels(pb.ListModelsRequest(), timeout=0.5))
        finish.set()
        assert (await call).next_page_token == "whole"
        await asyncio.wait_for(ending, 4)
    assert late.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_shutdown_ends_in_its_grace_and_names_what_it_cut(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"), grace_s=0.3)
    running = asyncio.Event()

    async def hang(_context: Any) -> pb.ListModelsResponse:
        running.set()
        await asyncio.sleep(60)
        return pb.ListModelsResponse()

    registry.servicer.list_models = hang
    serving = Ending(registry)
    await serving.begin()
    async with calling(ca, registry) as stub:
        call = asyncio.ensure_future(stub.ListModels(pb.ListModelsRequest(), timeout=30))
        await running.wait()
        started = time.monotonic()
        with capture_logs() as logs:
            await serving.end()
        assert time.monotonic() - started < 10
        error = await refusal(call)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert [entry["rpcs"] for entry in logs if entry["log_level"] == "warning"] == [{f"/{SERVICE}/ListModels": 1}]


async def test_health_watcher_is_told_and_does_not_hold_up_the_shutdown(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"), grace_s=30)
    serving = Ending(registry)
    await serving.begin()
    channels = Channels(ca.service("gateway"))
    channel = channels.service("registry", registry.target)
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    ending = serving.end()
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await asyncio.wait_for(ending, 10)
    await channels.close()


async def test_stream_that_heeds_stopping_ends_clean_at_shutdown(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"), grace_s=30)

    async def until_stopping(_context: Any) -> AsyncIterator[pb.WatchNodesResponse]:
        yield pb.WatchNodesResponse()
        await registry.stopping.wait()

    registry.servicer.watch_nodes = until_stopping
    serving = Ending(registry)
    await serving.begin()
    async with calling(ca, registry) as stub:
        stream = stub.WatchNodes(pb.WatchNodesRequest())
        await stream.read()
        ending = serving.end()
        assert await stream.read() is grpc.aio.EOF
        await asyncio.wait_for(ending, 10)


async def test_client_that_connects_and_says_nothing_delays_nobody(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"), grace_s=1)
    serving = Ending(registry)
    await serving.begin()
    silent = [await asyncio.open_connection("127.0.0.1", registry.server.port) for _ in range(20)]
    async with calling(ca, registry) as stub:
        await stub.ListModels(pb.ListModelsRequest(), timeout=2)
    await asyncio.wait_for(serving.end(), 3)
    for _, writer in silent:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("quiet_s", [0.0, 1.2])
async def test_stream_whose_other_end_hangs_without_dying_breaks_by_itself_on_both_ends(
    ca: CertificateMaker, monkeypatch: pytest.MonkeyPatch, quiet_s: float
) -> None:
    # The options as they are, ten times as fast; a limit that is missing would make it a minute.
    waits = ("time_ms", "timeout_ms")
    quick = [(name, value // 10 if name.endswith(waits) else value) for name, value in CHANNEL_OPTIONS]
    monkeypatch.setattr("crosslogic_common.tls.CHANNEL_OPTIONS", tuple(quick))
    monkeypatch.setattr("crosslogic_common.grpc_server.CHANNEL_OPTIONS", tuple(quick))
    registry = ToldRegistry(ca.service("registry"), grace_s=0)
    server_noticed = asyncio.Event()

    async def quiet(_context: Any) -> AsyncIterator[pb.WatchNodesResponse]:
        try:
            yield pb.WatchNodesResponse()
            await asyncio.sleep(60)
        finally:
            server_noticed.set()

    registry.servicer.watch_nodes = quiet
    channels = Channels(ca.service("gateway"))
    async with registry.server.serving(), TcpProxy("127.0.0.1", registry.server.port) as proxy:
        stub = rpc.RegistryServiceStub(channels.service("registry", f"127.0.0.1:{proxy.port}"))
        stream = stub.WatchNodes(pb.WatchNodesRequest())
        await stream.read()
        await asyncio.sleep(quiet_s)
        proxy.silence()
        error = await asyncio.wait_for(refusal(stream.read()), 5)
        await asyncio.wait_for(server_noticed.wait(), 5)
        proxy.speak()
        await channels.close()
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_server_shows_its_new_certificate_without_a_restart_and_without_dropping_a_call(
    ca: CertificateMaker,
) -> None:
    files = ca.service("registry")
    registry = ToldRegistry(files)
    async with registry.server.serving(), calling(ca, registry) as stub:
        before = await asyncio.to_thread(shown_certificate, ca, registry)
        stream = stub.HeartbeatStream()
        ca.service("registry")
        after = await asyncio.to_thread(shown_certificate, ca, registry)
        await stub.ListModels(pb.ListModelsRequest(), timeout=5)
        stream.cancel()
    assert before != after
    assert after == ssl.PEM_cert_to_DER_cert(files.cert_file.read_text())


async def test_half_replaced_certificate_leaves_the_old_one_serving(ca: CertificateMaker, tmp_path: Path) -> None:
    files = ca.service("registry")
    registry = ToldRegistry(files)
    async with registry.server.serving():
        before = await asyncio.to_thread(shown_certificate, ca, registry)
        other = CertificateMaker(tmp_path / "other").service("registry")
        files.key_file.write_bytes(other.key_file.read_bytes())
        assert await asyncio.to_thread(shown_certificate, ca, registry) == before
        files.key_file.unlink()
        assert await asyncio.to_thread(shown_certificate, ca, registry) == before
        fresh = ca.service("registry")
        assert await asyncio.to_thread(shown_certificate, ca, registry) == ssl.PEM_cert_to_DER_cert(
            fresh.cert_file.read_text()
        )


async def test_client_uses_its_new_certificate_and_its_running_call_ends_well(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"))
    serials: list[bytes] = []
    finish = asyncio.Event()

    async def remember(context: Any) -> pb.ListModelsResponse:
        serials.append(context.auth_context()["x509_pem_cert"][0])
        if len(serials) == 1:
            await finish.wait()
        return pb.ListModelsResponse()

    registry.servicer.list_models = remember
    channels = Channels(ca.service("gateway"))

    def stub() -> Any:
        return rpc.RegistryServiceStub(channels.service("registry", registry.target))

    async with registry.server.serving():
        running = asyncio.ensure_future(stub().ListModels(pb.ListModelsRequest(), timeout=5))
        while not serials:
            await asyncio.sleep(0.01)
        ca.service("gateway")
        await stub().ListModels(pb.ListModelsRequest(), timeout=5)
        finish.set()
        await running
        await channels.close()
    assert len(set(serials)) == 2


async def test_tls_1_2_is_refused_in_the_handshake_where_the_environment_says_so(ca: CertificateMaker) -> None:
    files = ca.service("registry")
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.fakes.serve_registry",
        str(files.cert_file),
        str(files.key_file),
        str(files.ca_file),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **TLS13_ENVIRONMENT},
    )
    assert server.stdout is not None
    try:
        port = int(await asyncio.wait_for(server.stdout.readline(), 20))
        context = client_context(ca)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError, match=r"EOF|reset|alert|ALERT"):
            await asyncio.to_thread(handshake, context, port)
        assert await asyncio.to_thread(handshake, client_context(ca), port)
    finally:
        server.terminate()
        assert await asyncio.wait_for(server.wait(), 10) == 0


def client_context(ca: CertificateMaker) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca.ca_file))
    gateway = ca.service("gateway")
    context.load_cert_chain(gateway.cert_file, gateway.key_file)
    context.set_alpn_protocols(["h2"])
    return context


def handshake(context: ssl.SSLContext, port: int) -> bytes | None:
    name = service_dns_name("registry")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname=name) as wire,
    ):
        return wire.getpeercert(binary_form=True)


def shown_certificate(ca: CertificateMaker, registry: ToldRegistry) -> bytes | None:
    return handshake(client_context(ca), registry.server.port)


async def test_taken_port_is_one_clear_line(ca: CertificateMaker) -> None:
    first = ToldRegistry(ca.service("registry"))
    async with first.server.serving():
        second = ToldRegistry(ca.service("registry"), listen=first.target)
        with pytest.raises(StartError, match=rf"cannot listen on {first.target}: is the port taken\?"):
            await Ending(second).begin()


async def test_key_of_another_certificate_is_one_clear_line(ca: CertificateMaker, tmp_path: Path) -> None:
    files = ca.service("registry")
    files.key_file.write_bytes(CertificateMaker(tmp_path / "other").service("registry").key_file.read_bytes())
    with pytest.raises(StartError, match="the key does not belong to the certificate"):
        await Ending(ToldRegistry(files)).begin()


async def test_reflection_and_health_answer_our_certificates_only(ca: CertificateMaker) -> None:
    registry = ToldRegistry(ca.service("registry"))
    channels = Channels(ca.node(NODE_ID))
    async with registry.server.serving():
        stub = health_pb2_grpc.HealthStub(channels.service("registry", registry.target))
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
        await channels.close()
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
