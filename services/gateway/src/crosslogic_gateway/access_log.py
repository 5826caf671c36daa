"""One JSON line a request, written in bulk: a line each through a logging library would cost more than the request."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable

import msgspec

MAX_BUFFERED = 100_000
_encode = msgspec.json.Encoder().encode


def to_stdout(data: bytes) -> None:
    """Writes all of `data` to standard output."""
    while data:
        data = data[os.write(1, data) :]


class AccessLog:
    """Gathers lines and writes them ten times a second."""

    def __init__(self, *, write: Callable[[bytes], None] = to_stdout, enabled: bool = True) -> None:
        """`write` takes whole lines. Lines that gather faster than they can be written are counted and dropped."""
        self._write = write
        self._enabled = enabled
        self._lines: list[bytes] = []
        self.dropped = 0

    def write(
        self, at_unix_s: float, method: str, path: str, status: int, elapsed_s: float, request_id: str, client: str
    ) -> None:
        """Notes a request. `path` is without its query, which may hold what is nobody's business."""
        if not self._enabled:
            return
        if len(self._lines) >= MAX_BUFFERED:
            self.dropped += 1
            return
        self._lines.append(
            _encode(
                {
                    "event": "request",
                    "at": round(at_unix_s, 3),
                    "method": method,
                    "path": path[:512],
                    "status": status,
                    "ms": round(elapsed_s * 1000, 3),
                    "request_id": request_id,
                    "client": client,
                }
            )
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Writes for as long as the block lasts, and what is left at its end."""
        task = asyncio.create_task(self._run(), name="access log")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._flush()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.1)
            if self._lines:
                lines, self._lines = self._lines, []
                # A full pipe or disk must not stop the event loop.
                await loop.run_in_executor(None, self._write, b"\n".join(lines) + b"\n")

    def _flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            self._write(b"\n".join(lines) + b"\n")
