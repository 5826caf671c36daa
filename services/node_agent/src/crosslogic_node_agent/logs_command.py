"""The end of a log, for an operator who has no other way to the machine."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_node_agent.commands import MAX_DATA_BYTES, CommandError, Done

DEFAULT_BYTES = 65_536


class LogCollector:
    """Reads logs from the disk."""

    def __init__(self, files: "Mapping[pb.LogSource.ValueType, Path]") -> None:
        """`files`: by source of the contract."""
        self._files = files

    async def carry(self, command: pb.NodeCommand) -> Done:
        """The end of the log asked for. Raises CommandError."""
        asked = command.collect_logs
        file = self._files.get(asked.source)
        if file is None:
            raise CommandError("there is no such log on this node")
        limit = min(asked.max_bytes or DEFAULT_BYTES, MAX_DATA_BYTES)
        try:
            data = await asyncio.to_thread(read_end, file, limit)
        except OSError as error:
            raise CommandError(f"the log cannot be read: {error.strerror}") from None
        return Done(f"the last {len(data)} bytes", data)


def read_end(file: Path, limit: int) -> bytes:
    """The last `limit` bytes of a file."""
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - limit))
        return opened.read(limit)
