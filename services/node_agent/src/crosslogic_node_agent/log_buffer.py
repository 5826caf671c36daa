"""Lines of the agent's and the engine's logs on their way to the registry: bounded, and dropped before they hurt."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from crosslogic.registry.v1 import registry_pb2 as pb

MAX_KEPT_LINES: Final = 1_024
MAX_KEPT_BYTES: Final = 256 * 1024
MAX_BATCH_LINES: Final = 128
MAX_BATCH_BYTES: Final = 16_384
MAX_LINE_BYTES: Final = 2_048
_LEVELS: Final = MappingProxyType(
    {
        "debug": pb.LOG_LEVEL_DEBUG,
        "info": pb.LOG_LEVEL_INFO,
        "warning": pb.LOG_LEVEL_WARNING,
        "error": pb.LOG_LEVEL_ERROR,
    }
)


class LogBuffer:
    """Takes lines from any thread. When it is full its oldest lines go: what happened last says most.

    A batch is looked at, and removed once it was shipped; a stream that breaks in between costs no line.
    """

    def __init__(self, *, least: str, now: Callable[[], float] = time.time) -> None:
        """`least` is the level of the least grave lines that are shipped: debug, info, warning or error."""
        self._least = _LEVELS[least]
        self._now = now
        self._lock = threading.Lock()
        self._lines: deque[tuple[int, pb.NodeLogLine, int]] = deque()
        """Number, line and size of its text."""
        self._bytes = 0
        self._number = 0
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Lines dropped since the start."""
        return self._dropped

    def add(self, source: "pb.LogSource.ValueType", level: "pb.LogLevel.ValueType", text: str) -> None:
        """A line, without its end and without secrets."""
        if level < self._least:
            return
        raw = text.encode("utf-8", "replace")[:MAX_LINE_BYTES]
        line = pb.NodeLogLine(source=source, level=level, text=raw.decode("utf-8", "ignore"))
        line.time.FromMilliseconds(int(self._now() * 1000))
        with self._lock:
            self._number += 1
            self._lines.append((self._number, line, len(raw)))
            self._bytes += len(raw)
            while len(self._lines) > MAX_KEPT_LINES or self._bytes > MAX_KEPT_BYTES:
                self._bytes -= self._lines.popleft()[2]
                self._dropped += 1

    def lost(self, lines: int) -> None:
        """So many lines were never read."""
        with self._lock:
            self._dropped += lines

    def batch(self) -> tuple[int, pb.NodeLogs | None]:
        """What to ship next, and the number of its last line. None: nothing."""
        with self._lock:
            if not self._lines:
                return 0, None
            batch = pb.NodeLogs(dropped=self._dropped)
            last = size = 0
            for number, line, line_bytes in self._lines:
                size += line_bytes
                if len(batch.lines) >= MAX_BATCH_LINES or size > MAX_BATCH_BYTES:
                    break
                batch.lines.append(line)
                last = number
            return last, batch

    def shipped(self, last: int) -> None:
        """Lines up to this number are on their way."""
        with self._lock:
            while self._lines and self._lines[0][0] <= last:
                self._bytes -= self._lines.popleft()[2]


class BufferHandler(logging.Handler):
    """Hands the agent's own log lines, as they are printed, to a buffer."""

    def __init__(self, buffer: LogBuffer) -> None:
        super().__init__()
        self._buffer = buffer

    def emit(self, record: logging.LogRecord) -> None:
        """Called by the standard library, from any thread; must not raise."""
        try:
            self._buffer.add(pb.LOG_SOURCE_AGENT, _level_of(record.levelno), self.format(record))
        except Exception:  # noqa: BLE001  # as every handler of the standard library does
            self.handleError(record)


def _level_of(number: int) -> "pb.LogLevel.ValueType":
    for least, level in ((logging.ERROR, pb.LOG_LEVEL_ERROR), (logging.WARNING, pb.LOG_LEVEL_WARNING)):
        if number >= least:
            return level
    return pb.LOG_LEVEL_INFO if number >= logging.INFO else pb.LOG_LEVEL_DEBUG
