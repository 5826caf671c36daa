"""What agents ship of their logs: taken without waiting, kept in Redis for a while, read through any replica.

`registry:logs:{id}` is a Redis stream with an entry for each line: a serialised NodeLogLine, and what the agent had
dropped by then. A node keeps its last `KEPT_LINES`, whatever it ships: a chatty one pushes out its own lines and nobody
else's. While Redis is away lines are lost and counted; heartbeats do not wait for it.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

from google.protobuf.message import DecodeError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_common.redis import redis_errors
from crosslogic_registry.observations import Observations

MAX_LINES = 128
"""Of one batch."""
MAX_LINE_BYTES = 2_048
MAX_BATCH_BYTES = 16_384
"""Of the text of one batch."""
KEPT_LINES = 256
"""Of one node: about 64 KiB, and 512 KiB if each were as long as a line may be."""
KEPT_MS = 86_400_000
MAX_WAITING = 1_024
"""Batches on their way to Redis."""
_BATCHES_A_TRIP = 4
_LINE, _DROPPED = b"line", b"dropped"
_CURSOR = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)


def logs_key(node_id: str) -> str:
    """Where a node's lines are."""
    return f"registry:logs:{node_id}"


class NodeLogs:
    """The logs of all nodes."""

    def __init__(self, *, redis: Redis | None, observations: Observations) -> None:
        """Without Redis nothing is kept."""
        self._redis = redis
        self._observations = observations
        self._waiting: asyncio.Queue[tuple[str, pb.NodeLogs]] = asyncio.Queue(MAX_WAITING)
        self._log = get_logger(__name__)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Writes what was taken, for as long as the block lasts."""
        task = asyncio.create_task(self._write_forever(), name="node logs")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def take(self, node_id: str, logs: pb.NodeLogs) -> None:
        """What a node shipped. Never waits, never refuses: what is too much is dropped and counted."""
        kept = fit_to_keep(logs)
        if cut := len(logs.lines) - len(kept.lines):
            self._drop(cut)
        try:
            self._waiting.put_nowait((node_id, kept))
        except asyncio.QueueFull:
            self._drop(len(kept.lines))

    async def read(
        self,
        node_id: str,
        *,
        cursor: str,
        least_level: "pb.LogLevel.ValueType",
        source: "pb.LogSource.ValueType",
    ) -> pb.ListNodeLogsResponse:
        """The lines that are kept and came after `cursor`. Raises INVALID_ARGUMENT, UNAVAILABLE."""
        if cursor and not _CURSOR.fullmatch(cursor):
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`cursor` is none of ours.", param="cursor")
        if self._redis is None:
            raise CodedError(ErrorCode.UNAVAILABLE, private="this registry has no Redis to keep logs in")
        with redis_errors():
            found = await self._redis.xrange(logs_key(node_id), min=f"({cursor}" if cursor else "-")
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", found)
        answer = pb.ListNodeLogsResponse(cursor=cursor)
        for entry_id, fields in entries:
            answer.cursor = entry_id.decode()
            with contextlib.suppress(DecodeError, ValueError):
                answer.dropped = int(fields.get(_DROPPED, b"0"))
                line = pb.NodeLogLine.FromString(fields.get(_LINE, b""))
                if line.level >= least_level and source in (pb.LOG_SOURCE_UNSPECIFIED, line.source):
                    answer.lines.append(line)
        return answer

    async def _write_forever(self) -> None:
        while True:
            batches = [await self._waiting.get()]
            while len(batches) < _BATCHES_A_TRIP and not self._waiting.empty():
                batches.append(self._waiting.get_nowait())
            try:
                await self._write(batches)
            except (RedisError, OSError) as error:
                self._drop(sum(len(logs.lines) for _, logs in batches))
                self._log.warning("log lines of nodes not kept", batches=len(batches), reason=str(error))

    async def _write(self, batches: Iterable[tuple[str, pb.NodeLogs]]) -> None:
        if self._redis is None:
            return
        async with self._redis.pipeline(transaction=False) as pipeline:
            for node_id, logs in batches:
                key = logs_key(node_id)
                for line in logs.lines:
                    entry: dict[Any, Any] = {_LINE: line.SerializeToString(), _DROPPED: logs.dropped}
                    pipeline.xadd(key, entry, maxlen=KEPT_LINES, approximate=False)
                pipeline.pexpire(key, KEPT_MS)
            await pipeline.execute()

    def _drop(self, lines: int) -> None:
        self._observations.log_lines_dropped.inc(lines)


def fit_to_keep(logs: pb.NodeLogs) -> pb.NodeLogs:
    """A node's own words, made fit to be kept and shown on a terminal: bounded, and without control characters."""
    kept = pb.NodeLogs(dropped=logs.dropped)
    size = 0
    for line in logs.lines[:MAX_LINES]:
        text = "".join(char if char.isprintable() else " " for char in line.text[:MAX_LINE_BYTES])
        text = text.encode("utf-8", "replace")[:MAX_LINE_BYTES].decode("utf-8", "ignore")
        size += len(text.encode())
        if size > MAX_BATCH_BYTES:
            break
        level = line.level if line.level in pb.LogLevel.values() else pb.LOG_LEVEL_INFO
        source = line.source if line.source in pb.LogSource.values() else pb.LOG_SOURCE_UNSPECIFIED
        added = kept.lines.add(source=source, level=level or pb.LOG_LEVEL_INFO, text=text)
        added.time.seconds = min(max(line.time.seconds, 0), 253_402_300_799)  # the last second that a Timestamp has
        added.time.nanos = min(max(line.time.nanos, 0), 999_999_999)
    return kept
