"""A TCP proxy that can go silent: what a stopped process or a lost route looks like from the other side."""

import asyncio
import contextlib
from typing import Self


class TcpProxy:
    """Forwards to `host`:`port`, until it is told to be silent, to refuse, or to cut what it has."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._talking = asyncio.Event()
        self._talking.set()
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.cut()

    def silence(self) -> None:
        """From now on nothing passes, either way."""
        self._talking.clear()

    def speak(self) -> None:
        """What was held passes, and all that follows."""
        self._talking.set()

    async def cut(self) -> None:
        """Ends the connections there are."""
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def refuse(self) -> None:
        """Accepts no more."""
        self._server.close()

    async def accept_again(self) -> None:
        """Accepts at the port it had."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        onward: asyncio.StreamWriter | None = None
        try:
            await self._talking.wait()
            back, onward = await asyncio.open_connection(*self._to)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, onward))
                both.create_task(self._pump(back, writer))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            self._connections.discard(task)
            for end in (writer, onward):
                if end is not None:
                    end.close()
                    with contextlib.suppress(OSError, asyncio.CancelledError):
                        await end.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._talking.wait()
            writer.write(data)
            await writer.drain()
        writer.close()
