"""A gateway that stops, connection by connection: no client may find closed what it was told stays open."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator

import pytest
import uvloop
from aiohttp import web

from crosslogic_gateway import protocol
from crosslogic_gateway.protocol import EdgeRunner

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


class Edge:
    """An application on the gateway's own runner."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.runner = EdgeRunner(self._app(), head_timeout_s=10.0, keepalive_timeout_s=60.0)
        self.port = 0

    def _app(self) -> web.Application:
        async def handle(request: web.Request) -> web.Response:
            body = await request.read()
            if body == b"holds":
                await self.held.wait()
            return web.Response(body=body)

        app = web.Application()
        app.router.add_post("/", handle)
        return app

    async def connect(self) -> "Client":
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))


class Client:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def answer(self) -> bytes:
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            await self.reader.readexactly(5)
        return head.lower()

    async def closed(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read() == b""


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    made = Edge()
    await made.runner.setup()
    site = web.TCPSite(made.runner, "127.0.0.1", 0)
    await site.start()
    made.port = made.runner.addresses[0][1]
    yield made
    await made.runner.cleanup()


async def test_a_kept_connection_gets_one_more_answer_that_says_it_is_the_last(edge: Edge) -> None:
    client = await edge.connect()
    client.send(REQUEST + b"first")
    assert b"connection: close" not in await client.answer()
    stopping = asyncio.create_task(edge.runner.finish(10.0))
    await asyncio.sleep(0.1)
    client.send(REQUEST + b"again")
    head = await client.answer()
    assert head.startswith(b"http/1.1 200")
    assert b"connection: close" in head
    assert await client.closed()
    await stopping


async def test_a_client_that_was_told_in_mid_answer_that_it_may_go_on_may(edge: Edge) -> None:
    client = await edge.connect()
    client.send(REQUEST + b"holds")
    await asyncio.sleep(0.1)
    stopping = asyncio.create_task(edge.runner.finish(10.0))
    await asyncio.sleep(0.1)
    edge.held.set()
    if b"connection: close" not in await client.answer():
        client.send(REQUEST + b"again")
        assert b"connection: close" in await client.answer()
    assert await client.closed()
    await stopping


async def test_a_body_that_is_under_way_is_taken_to_its_end(edge: Edge) -> None:
    client = await edge.connect()
    client.send(REQUEST + b"he")
    await asyncio.sleep(0.1)
    stopping = asyncio.create_task(edge.runner.finish(10.0))
    await asyncio.sleep(0.1)
    client.send(b"llo")
    assert (await client.answer()).startswith(b"http/1.1 200")
    client.writer.close()
    await stopping


async def test_idle_connections_and_endless_requests_do_not_hold_it_for_ever(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGER_S", 0.2)
    silent, kept, endless = [await edge.connect() for _ in range(3)]
    kept.send(REQUEST + b"first")
    await kept.answer()
    endless.send(REQUEST + b"holds")
    await asyncio.sleep(0.1)
    began = asyncio.get_running_loop().time()
    await edge.runner.finish(1.0)
    assert asyncio.get_running_loop().time() - began >= 1.0, "what runs has its grace"
    assert await silent.closed()
    assert await kept.closed()
    edge.held.set()
    assert (await endless.answer()).startswith(b"http/1.1 200")


def test_a_client_that_stood_still_with_the_gateway_finds_its_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_S", 1.0)

    async def stop_and_stand_still() -> bytes:
        edge = Edge()
        await edge.runner.setup()
        await web.TCPSite(edge.runner, "127.0.0.1", 0).start()
        with socket.create_connection(("127.0.0.1", edge.runner.addresses[0][1])) as client:
            client.sendall(REQUEST + b"first")
            await asyncio.to_thread(client.recv, 65_536)
            stopping = asyncio.create_task(edge.runner.finish(10.0))
            await asyncio.sleep(0.25)
            threading.Timer(1.6, client.sendall, (REQUEST + b"again",)).start()
            time.sleep(1.5)  # it stands still, and not for others
            answer = await asyncio.to_thread(client.recv, 65_536)
            await stopping
        await edge.runner.cleanup()
        return answer

    # The gateway's own loop.
    assert uvloop.run(stop_and_stand_still()).startswith(b"HTTP/1.1 200")
