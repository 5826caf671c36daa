"""The connections of a TCP server of the tests: a task each, which end with it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

Pump = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Connections:
    """Those that are open now."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def one(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        """A connection for as long as the block lasts. Whatever ends it, its end or `cut`, is no error."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        except* (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def cut(self) -> None:
        """Ends all of them."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries bytes one way as they come."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def forward(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    to: tuple[str, int],
    *,
    onward: Pump = pump,
    back: Pump = pump,
) -> None:
    """Carries bytes to `to` and back until both ways have ended, each in its own way where that is given."""
    far_reader, far_writer = await asyncio.open_connection(*to)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_carry(onward, reader, far_writer))
            both.create_task(_carry(back, far_reader, writer))
    finally:
        for end in (writer, far_writer):
            end.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await end.wait_closed()


async def _carry(way: Pump, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await way(reader, writer)
    writer.close()
