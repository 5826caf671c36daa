"""Waits that a stopping server cuts short."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def unless_stopping(waiting: Awaitable[Result], stopping: asyncio.Event) -> Result | None:
    """What is waited for, or None once `stopping` is set. Not for what happens per message: it costs two tasks."""
    task = asyncio.ensure_future(waiting)
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stop.cancel()
