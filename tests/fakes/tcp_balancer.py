"""A TCP balancer: what a Service and its endpoints do in Kubernetes, for connections."""

import asyncio
import contextlib
from collections import deque
from typing import Self


class TcpBalancer:
    """Gives each new connection to the next backend in turn. Connections that stand are left alone by changes."""

    def __init__(self) -> None:
        self._backends: deque[tuple[str, int]] = deque()
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0
        self.given: dict[tuple[str, int], int] = {}
        """How many connections each backend was given."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def add(self, target: str) -> None:
        """host:port gets connections from now on."""
        self._backends.append(_split(target))

    def remove(self, target: str) -> None:
        """host:port gets no new connection any more."""
        self._backends.remove(_split(target))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        onward: asyncio.StreamWriter | None = None
        try:
            backend = self._backends[0]
            self._backends.rotate(-1)
            self.given[backend] = self.given.get(backend, 0) + 1
            back, onward = await asyncio.open_connection(*backend)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, onward))
                both.create_task(_pump(back, writer))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            self._connections.discard(task)
            for end in (writer, onward):
                if end is not None:
                    end.close()
                    with contextlib.suppress(OSError, asyncio.CancelledError):
                        await end.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def _split(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)
