"""A TCP balancer: what a Service and its endpoints do in Kubernetes, for connections."""

import asyncio
from collections import deque
from typing import Self

from tests.fakes.connections import Connections, forward


class TcpBalancer:
    """Gives each new connection to the next backend in turn. Connections that stand are left alone by changes."""

    def __init__(self) -> None:
        self._backends: deque[tuple[str, int]] = deque()
        self._connections = Connections()
        self.port = 0
        self.given: dict[tuple[str, int], int] = {}
        """How many connections each backend was given."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._connections.cut()

    def add(self, target: str) -> None:
        """host:port gets connections from now on."""
        self._backends.append(_split(target))

    def remove(self, target: str) -> None:
        """host:port gets no new connection any more."""
        self._backends.remove(_split(target))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._connections.one(writer):
            backend = self._backends[0]
            self._backends.rotate(-1)
            self.given[backend] = self.given.get(backend, 0) + 1
            await forward(reader, writer, backend)


def _split(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)
