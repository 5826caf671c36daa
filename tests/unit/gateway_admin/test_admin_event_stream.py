"""Server-sent events to clients behind proxies, and to clients that read nothing."""

import asyncio
from collections.abc import AsyncGenerator

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from crosslogic_gateway.admin.event_stream import send_events
from crosslogic_gateway.http import REQUEST_ID, SHOWN_REQUEST_ID


class Said(msgspec.Struct):
    text: str


def app(
    events: AsyncGenerator[msgspec.Struct, None], *, beat_s: float = 60.0, patience_s: float = 60.0
) -> web.Application:
    async def handle(request: web.Request) -> web.StreamResponse:
        request[REQUEST_ID] = request[SHOWN_REQUEST_ID] = "test-request"
        return await send_events(request, events, beat_s=beat_s, patience_s=patience_s)

    made = web.Application()
    made.router.add_get("/", handle)
    return made


async def test_a_launch_that_is_silent_for_minutes_is_not_cut_off_by_a_proxy() -> None:
    go_on = asyncio.Event()

    async def events() -> AsyncGenerator[msgspec.Struct, None]:
        yield Said("begun")
        await go_on.wait()
        yield Said("done")

    async with TestClient(TestServer(app(events(), beat_s=0.02))) as client, client.get("/") as answer:
        lines = []
        async with asyncio.timeout(30):
            async for line in answer.content:
                if line.strip():
                    lines.append(line.decode().strip())
                if lines.count(": still there") >= 2:
                    go_on.set()
    assert (lines[0], lines[-1]) == ('data: {"text":"begun"}', 'data: {"text":"done"}')
    assert set(lines[1:-1]) == {": still there"}


async def test_a_client_that_reads_nothing_holds_its_place_for_seconds_only() -> None:
    left = asyncio.Event()

    async def events() -> AsyncGenerator[msgspec.Struct, None]:
        try:
            while True:
                yield Said("x" * 1_000_000)
        finally:
            left.set()

    async with TestServer(app(events(), patience_s=0.1)) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port, limit=1_024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(30):
            await left.wait()
        writer.close()
        del reader


async def test_whoever_leaves_is_noticed_although_nothing_happens() -> None:
    left = asyncio.Event()

    async def events() -> AsyncGenerator[msgspec.Struct, None]:
        try:
            yield Said("begun")
            await asyncio.Event().wait()
        finally:
            left.set()

    async with TestServer(app(events(), beat_s=0.02)) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(30):
            await reader.readuntil(b"begun")
            writer.transport.abort()
            await left.wait()
