"""9: 200 readers take a byte a second: others' first tokens come as if these read well, and memory stays bounded."""

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

from crosslogic_dev.suite import Suite
from tests.chaos.oracle import PATHS
from tests.chaos.world import World

READERS = 200
SAMPLES = 100
TOKENS = 2_000
MOST_SLOWER = 1.1
BYTES_A_READER = 1024 * 1024
"""What a worker may hold for one reader: the call's credit, the connection's buffers, and their bookkeeping."""
SMALL_RUN_S = 0.05
"""Of few samples p99 is the worst one: a small run forgives that much of it."""
TRIES = 3
"""Of the latencies: a machine that has something else to do for some seconds is given another chance."""


async def run(world: World) -> None:
    """The same streams twice, read well and read badly."""
    samples = world.scaled(SAMPLES, least=25)
    for left in reversed(range(TRIES)):
        async with _readers(world, bytes_a_second=1_000_000):
            well = await _first_tokens(world, samples)
        before = _memory_bytes(world.suite)
        async with _readers(world, bytes_a_second=1):
            badly = await _first_tokens(world, samples)
            grown = _memory_bytes(world.suite) - before
        assert grown < READERS * BYTES_A_READER, f"the gateway grew by {grown >> 20} MiB"
        if _p99(badly) <= MOST_SLOWER * _p99(well) + (SMALL_RUN_S if world.size < 1 else 0.0):
            return
        assert left, f"p99 of the first token was {_p99(well):.3f} s and is {_p99(badly):.3f} s"


@contextlib.asynccontextmanager
async def _readers(world: World, *, bytes_a_second: int) -> AsyncIterator[None]:
    """200 streams under way, each read at that pace."""
    began = [asyncio.Event() for _ in range(READERS)]
    tasks = [asyncio.create_task(_read(world.suite, bytes_a_second, each)) for each in began]
    try:
        async with asyncio.timeout(60):
            for each in began:
                await each.wait()
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), [e for e in ended if e is not None][:3]


async def _read(suite: Suite, bytes_a_second: int, began: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    url = urlsplit(suite.base_url)
    body = json.dumps({"model": suite.model_name, "prompt": "slow", "max_tokens": TOKENS, "stream": True}).encode()
    with socket.socket() as connection:
        # Small, so that what is not read is the gateway's to hold.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await loop.sock_connect(connection, (url.hostname, url.port))
        head = (
            f"POST {PATHS['completions']} HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {suite.api_key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        await loop.sock_sendall(connection, head.encode() + body)
        while await loop.sock_recv(connection, bytes_a_second):
            began.set()
            await asyncio.sleep(1.0)
    raise AssertionError("the gateway hung up on a reader")


async def _first_tokens(world: World, samples: int) -> list[float]:
    """Times to the first token of others, in seconds."""
    times = []
    for number in range(samples):
        # Engines go in steps: each sample meets another part of one.
        await asyncio.sleep(world.chance.random() * 0.05)
        asked = world.a_request(number, stream=True, max_tokens=1)
        began = time.monotonic()
        await world.client.ask(asked)
        assert asked.status == 200, asked.error
        times.append(time.monotonic() - began)
    return times


def _p99(times: list[float]) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * 0.99))]


def _memory_bytes(suite: Suite) -> int:
    """Of the gateway, resident."""
    pages = int(Path(f"/proc/{suite.pid('gateway')}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
