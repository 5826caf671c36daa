"""Notices from the machine itself, for clouds without an interface of their own: a file that appears, or a signal."""

import asyncio
import signal
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from crosslogic_node_agent.spot.notice import (
    MetadataError,
    NoticeKind,
    SpotNotice,
    parse_time,
    short_action,
    within,
)

WARNING_S: Final = 30.0
MAX_FILE_BYTES: Final = 4096


class FileSpot:
    """A file whose existence is the notice. It may hold `{"action": "terminate"|"rebalance", "time": "..."}`."""

    pause_s = 0.25

    def __init__(self, file: Path) -> None:
        self._file = file

    async def look(self, now: datetime) -> SpotNotice | None:
        """What is known now. Raises MetadataError."""
        try:
            text = await asyncio.to_thread(self._read)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MetadataError(f"{error.strerror}") from None
        try:
            told = msgspec.json.decode(text) if text.strip() else {}
        except msgspec.DecodeError:
            told = None
        if not isinstance(told, dict):
            # Whoever wrote the file wants the machine left; how, cannot be read.
            told = {}
        action = told.get("action", "terminate")
        if action == "rebalance":
            return SpotNotice(NoticeKind.RISK, "file", "rebalance", now)
        deadline = within(now, parse_time(told.get("time")), assumed_s=WARNING_S)
        return SpotNotice(NoticeKind.TERMINATION, "file", short_action(action), now, deadline)

    async def acknowledge(self) -> None:
        """The file stays where it is."""

    def _read(self) -> bytes:
        with self._file.open("rb") as file:
            return file.read(MAX_FILE_BYTES)


class SignalSpot:
    """SIGUSR1: the machine goes in 30 s."""

    pause_s = 0.0

    def __init__(self) -> None:
        """Takes the signal for this process; must be made in the event loop."""
        self._told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._told.set)

    async def look(self, now: datetime) -> SpotNotice | None:
        """Waits for the signal."""
        await self._told.wait()
        told_at = datetime.now(now.tzinfo)
        return SpotNotice(NoticeKind.TERMINATION, "signal", "SIGUSR1", told_at, told_at + timedelta(seconds=WARNING_S))

    async def acknowledge(self) -> None:
        """Nobody waits."""
