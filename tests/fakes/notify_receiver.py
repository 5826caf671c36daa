"""A receiver of webhooks on a real socket: keeps every byte it is sent, and answers what a test says."""

import asyncio
import contextlib
import functools
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from queue import Queue

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def answering(status: int, *headers: str) -> bytes:
    """An answer."""
    return "\r\n".join([f"HTTP/1.1 {status} X", "Content-Length: 0", *headers, "", ""]).encode()


@dataclass(frozen=True, slots=True)
class Got:
    """One request."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Receiver:
    """What came, and what is answered."""

    port: int = 0
    secret: str = ""
    """What its route signs with, for tests that verify it."""
    connections: int = 0
    got: list[Got] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    """Given in turn; then `OK`."""
    on_request: Callable[[], None] | None = None
    """Called when a request is there, before it is answered."""
    answer_when: asyncio.Event | None = None
    """Answers wait for it. None: they do not."""

    async def until(self, count: int, *, timeout_s: float = 60.0) -> list[Got]:
        """The requests, once there are so many."""
        async with asyncio.timeout(timeout_s):
            while len(self.got) < count:
                await asyncio.sleep(0.01)
        return self.got

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.rstrip("\r\n").split("\r\n")
            headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.got.append(Got(line, headers, body))
            if self.on_request is not None:
                self.on_request()
            answer = self.answers.pop(0) if self.answers else OK
            if self.answer_when is not None:
                await self.answer_when.wait()
            writer.write(answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def receiver(host: str = "127.0.0.1", *, context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Serves for as long as the block lasts."""
    made = Receiver()
    server = await asyncio.start_server(made.serve, host, 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        if made.answer_when is not None:
            made.answer_when.set()
        server.close()
        await server.wait_closed()


@contextlib.contextmanager
def receiver_aside() -> Iterator[Receiver]:
    """The same in a thread, for tests that have no loop."""
    ready: Queue[Receiver] = Queue()
    stopping: list[Callable[[], object]] = []

    async def run() -> None:
        stop = asyncio.Event()
        async with receiver() as made:
            stopping.append(functools.partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set))
            ready.put(made)
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    made = ready.get(timeout=30)
    try:
        yield made
    finally:
        stopping[0]()
        thread.join(30)
