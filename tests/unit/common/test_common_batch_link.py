"""A batched link that is stopped stops, whatever happens in the same moment."""

import asyncio
from typing import Any

from crosslogic_common.batched.link import BatchLink


class _Stream:
    """Connects when it is told to, and says nothing."""

    def __init__(self, connects: asyncio.Event) -> None:
        self._connects = connects
        self._ended = asyncio.Event()

    async def wait_for_connection(self) -> None:
        await self._connects.wait()

    async def read(self) -> Any:
        await self._ended.wait()

    async def write(self, _: Any) -> None:
        await self._ended.wait()

    def cancel(self) -> bool:
        self._ended.set()
        return True


async def test_a_service_that_is_stopped_in_the_moment_it_is_connected_does_not_hang() -> None:
    connects = asyncio.Event()
    link: BatchLink[Any, Any, Any] = BatchLink(
        name="test",
        open_stream=lambda: _Stream(connects),
        encode=lambda items: items,
        on_message=lambda _: None,
        on_broken=lambda _: None,
    )
    running = link.running()
    await running.__aenter__()
    for _ in range(5):
        await asyncio.sleep(0)

    async def connect_and_stop() -> None:
        connects.set()
        await running.__aexit__(None, None, None)

    stopping = asyncio.create_task(connect_and_stop())
    stopped, _ = await asyncio.wait({stopping}, timeout=20)
    stopping.cancel()
    assert stopped
    assert not link.connected.is_set()
