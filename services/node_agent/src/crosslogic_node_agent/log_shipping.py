"""Follows the agent's own log and its engine's, and fills the buffer that heartbeats empty."""

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.logs import get_logger, redact
from crosslogic_node_agent.log_buffer import MAX_LINE_BYTES, BufferHandler, LogBuffer

LOOK_EVERY_S: Final = 1.0
MAX_READ_BYTES: Final = 256 * 1024
"""Of one look. A log that grows faster is skipped through, not read behind the time."""
_WORD: Final = re.compile(r"^(?:\([^)]{0,80}\)\s*)?(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)\b")
_LEVELS: Final = MappingProxyType(
    {
        "DEBUG": pb.LOG_LEVEL_DEBUG,
        "INFO": pb.LOG_LEVEL_INFO,
        "WARNING": pb.LOG_LEVEL_WARNING,
        "WARN": pb.LOG_LEVEL_WARNING,
        "ERROR": pb.LOG_LEVEL_ERROR,
        "CRITICAL": pb.LOG_LEVEL_ERROR,
        "FATAL": pb.LOG_LEVEL_ERROR,
    }
)


class FileTail:
    """What is appended to a file from now on, also when the file is begun anew."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inode, self._offset = self._place()
        self._rest = b""

    def read(self) -> tuple[list[bytes], int]:
        """The lines since the last look, and the bytes that were skipped. Raises OSError."""
        inode, size = self._place()
        if inode != self._inode or size < self._offset:
            self._inode, self._offset, self._rest = inode, 0, b""
        skipped = max(size - self._offset - MAX_READ_BYTES, 0)
        if skipped:
            self._offset += skipped
            self._rest = b""
        if size == self._offset:
            return [], skipped
        with self._file.open("rb") as opened:
            opened.seek(self._offset)
            data = opened.read(size - self._offset)
        self._offset += len(data)
        *lines, rest = (self._rest + data).split(b"\n")
        # A line without an end must not gather for ever.
        self._rest = rest[:MAX_LINE_BYTES]
        return lines, skipped

    def _place(self) -> tuple[int, int]:
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_ino, found.st_size


class LogShipping:
    """Fills `buffer` for as long as it runs."""

    def __init__(self, *, least: str, engine_log: Path) -> None:
        """`least` is as of LogBuffer. What `engine_log` holds already is not shipped again."""
        self.buffer = LogBuffer(least=least)
        self._tail = FileTail(engine_log)
        self._level: pb.LogLevel.ValueType = pb.LOG_LEVEL_INFO
        self._log = get_logger(__name__)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follows both logs for as long as the block lasts."""
        root = logging.getLogger()
        handler = BufferHandler(self.buffer)
        if root.handlers:
            handler.setFormatter(root.handlers[0].formatter)
        root.addHandler(handler)
        task = asyncio.create_task(self._follow_engine(), name="engine's log")
        try:
            yield
        finally:
            root.removeHandler(handler)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow_engine(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await asyncio.to_thread(self.look)
            except OSError as error:
                self._log.warning("the engine's log cannot be read", reason=os.strerror(error.errno or 0))
                await asyncio.sleep(30 * LOOK_EVERY_S)

    def look(self) -> None:
        """Takes what the engine has written since the last look. Raises OSError."""
        lines, skipped = self._tail.read()
        if skipped:
            # How many lines that were nobody has read: one for each of a usual length.
            self.buffer.lost(skipped // 128 + 1)
        for raw in lines:
            text = raw[: 4 * MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
            if not text:
                continue
            found = _WORD.match(text)
            if found:
                self._level = _LEVELS[found[1]]
            elif text.startswith("Traceback (most recent call last)"):
                self._level = pb.LOG_LEVEL_ERROR
            # A line without a level goes on with what the one before began.
            self.buffer.add(pb.LOG_SOURCE_ENGINE, self._level, str(redact(None, "", {"event": text})["event"]))
