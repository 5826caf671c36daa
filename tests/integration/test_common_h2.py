"""The event loop's own gRPC client against real grpcio servers over mTLS."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic.scheduler.v1 import scheduler_pb2_grpc as rpc
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.grpc_server import GrpcServer
from crosslogic_common.h2 import H2Stream, H2Target
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import TlsFiles, service_dns_name
from tests.fakes.test_ca import CertificateMaker

SERVICE = "crosslogic.scheduler.v1.SchedulerService"
PATH = f"/{SERVICE}/PickStream"
Connected = tuple[H2Stream[pb.PickStreamResponse], asyncio.Queue[pb.PickStreamResponse], asyncio.Future[None]]


class Echo(rpc.SchedulerServiceServicer):
    """Answers each message with one of the same size; does as it is told by a model's name."""

    async def Pick(self, request: Any, context: Any) -> pb.PickResponse:
        return pb.PickResponse(node_id=request.model)

    async def PickStream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # writes by itself
        async for message in request_iterator:
            first = message.calls[0]
            if first.request.model == "fail":
                raise CodedError(ErrorCode.NO_CAPACITY, "nothing left", retry_after_s=2.0)
            if first.request.model == "end":
                return
            results = [
                pb.PickStreamResult(id=call.id, response=pb.PickResponse(node_id=call.request.model))
                for call in message.calls
            ]
            await context.write(pb.PickStreamResponse(results=results))

    async def LaneStream(  # type: ignore[override]  # nothing is asked of it here
        self, request_iterator: AsyncIterator[pb.LaneStreamRequest], context: Any
    ) -> None:
        raise NotImplementedError


def message(call_id: int, model: str) -> bytes:
    call = pb.PickStreamCall(id=call_id, request=pb.PickRequest(model=model))
    return pb.PickStreamRequest(calls=[call]).SerializeToString()


class World:
    def __init__(self, folder: Path) -> None:
        self.ca = CertificateMaker(folder / "pki")
        self.client = self.ca.service("gateway")
        self.server = GrpcServer(
            listen="127.0.0.1:0",
            tls=self.ca.service("scheduler"),
            rules={
                PATH: frozenset({"service:gateway"}),
                **{f"/{SERVICE}/{name}": frozenset({"service:operator"}) for name in ("Pick", "LaneStream")},
            },
            metrics=Metrics(),
            stopping=asyncio.Event(),
            shutdown_grace_s=0.2,
        )
        self.server.add(pb, SERVICE, lambda server: rpc.add_SchedulerServiceServicer_to_server(Echo(), server))

    def stream(self, tls: TlsFiles | None = None, name: str = "scheduler") -> H2Stream[pb.PickStreamResponse]:
        return H2Stream(
            target=H2Target(f"127.0.0.1:{self.server.port}", service_dns_name(name), PATH),
            tls=tls or self.client,
            deserialize=pb.PickStreamResponse.FromString,
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with world.server.serving():
        yield world


@contextlib.asynccontextmanager
async def connected(
    world: World,
) -> AsyncIterator[Connected]:
    stream = world.stream()
    await asyncio.wait_for(stream.wait_for_connection(), 5)
    received: asyncio.Queue[pb.PickStreamResponse] = asyncio.Queue()
    ended = stream.deliver(received.put_nowait)
    try:
        yield stream, received, ended
    finally:
        stream.cancel()


async def refusal(stream: H2Stream[pb.PickStreamResponse]) -> CodedError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(stream.wait_for_connection(), 5)
    return from_rpc_error(caught.value)


async def test_messages_go_there_and_back_in_order(world: World) -> None:
    async with connected(world) as (stream, received, _):
        for i in range(500):
            await stream.write(message(i, f"m{i}"))
        answers = [await asyncio.wait_for(received.get(), 5) for _ in range(500)]
    assert [answer.results[0].response.node_id for answer in answers] == [f"m{i}" for i in range(500)]


async def test_messages_larger_than_every_window_come_through_whole(world: World) -> None:
    async with connected(world) as (stream, received, _):
        big = os.urandom(3_000_000).hex()
        for i in range(4):
            await asyncio.wait_for(stream.write(message(i, big)), 20)
            answer = await asyncio.wait_for(received.get(), 20)
            assert answer.results[0].response.node_id == big


async def test_an_error_of_the_servicer_keeps_its_code_and_advice(world: World) -> None:
    async with connected(world) as (stream, _, ended):
        await stream.write(message(1, "fail"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(ended, 5)
    error = from_rpc_error(caught.value)
    assert (error.code, error.public, error.retry_after_s) == (ErrorCode.NO_CAPACITY, "nothing left", 2.0)


async def test_a_stream_that_the_server_ends_is_lost_and_not_silent(world: World) -> None:
    async with connected(world) as (stream, _, ended):
        await stream.write(message(1, "end"))
        with pytest.raises(grpc.aio.AioRpcError):
            await asyncio.wait_for(ended, 5)
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.write(message(2, "after"))


async def test_a_server_that_stops_is_noticed_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.server.serving():
        stream = world.stream()
        await asyncio.wait_for(stream.wait_for_connection(), 5)
        ended = stream.deliver(lambda _: None)
    with pytest.raises(grpc.aio.AioRpcError):
        await asyncio.wait_for(ended, 5)


async def test_a_caller_without_the_right_to_call_is_refused(world: World) -> None:
    assert (await refusal(world.stream(world.ca.service("identity")))).code == ErrorCode.PERMISSION_DENIED


async def test_a_server_with_another_name_is_not_spoken_to(world: World) -> None:
    assert (await refusal(world.stream(name="accountant"))).code == ErrorCode.UNAVAILABLE


async def test_a_certificate_of_another_ca_gets_nowhere(world: World, tmp_path: Path) -> None:
    foreign = CertificateMaker(tmp_path / "foreign", name="foreign").service("gateway")
    mixed = TlsFiles(foreign.cert_file, foreign.key_file, world.client.ca_file)
    assert (await refusal(world.stream(mixed))).code == ErrorCode.UNAVAILABLE


async def test_a_server_that_is_not_there_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    world = World(tmp_path)
    stream: H2Stream[pb.PickStreamResponse] = H2Stream(
        target=H2Target("127.0.0.1:1", service_dns_name("scheduler"), PATH),
        tls=world.client,
        deserialize=pb.PickStreamResponse.FromString,
    )
    assert (await refusal(stream)).code == ErrorCode.UNAVAILABLE


async def test_a_server_that_speaks_another_protocol_is_an_error(tmp_path: Path) -> None:
    ca = CertificateMaker(tmp_path / "pki")
    files = ca.service("scheduler")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert_file, files.key_file)

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" * 100)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    async with server:
        stream: H2Stream[pb.PickStreamResponse] = H2Stream(
            target=H2Target(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", service_dns_name("scheduler"), PATH),
            tls=ca.service("gateway"),
            deserialize=pb.PickStreamResponse.FromString,
        )
        assert (await refusal(stream)).code in (ErrorCode.INTERNAL, ErrorCode.UNAVAILABLE)
