"""An append-only queue on disk: what was put survives a kill; what was acknowledged is forgotten segment by segment.

A segment is a file of records (length, CRC-32, bytes). Acknowledgements are not written down: after a crash the records
of a segment that held unacknowledged ones come again, which the ledger knows by their request ids.
"""

import os
import struct
import zlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SEGMENT_BYTES = 1024 * 1024
_RENEW_BYTES = 64 * 1024
"""A segment that holds nothing but acknowledged records is given up once it is this large."""
_HEADER = struct.Struct("<II")
_SUFFIX = ".spool"


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    size: int = 0
    records: int = 0
    acknowledged: int = 0
    read_to: int = 0


@dataclass(frozen=True, slots=True)
class Spooled:
    """One record that waits for its acknowledgement."""

    segment: int
    content: bytes


class SpoolFullError(Exception):
    """The spool has reached its bound; nothing was put."""


class Spool:
    """The queue. One process at a time."""

    def __init__(self, directory: Path, *, max_bytes: int = 256 * SEGMENT_BYTES) -> None:
        """Takes up what an earlier process left in `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._max_bytes = max_bytes
        self._segments: dict[int, _Segment] = {}
        self._unread: deque[int] = deque()
        self._bytes = 0
        for path in sorted(directory.glob(f"*{_SUFFIX}"), key=lambda path: int(path.stem)):
            segment = _Segment(int(path.stem), path)
            segment.records, segment.size = _count(path)
            if segment.records == 0:
                path.unlink()
                continue
            self._segments[segment.number] = segment
            self._unread.append(segment.number)
            self._bytes += segment.size
        self._last = max(self._segments, default=0)
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        """Records that are not acknowledged."""
        return sum(segment.records - segment.acknowledged for segment in self._segments.values())

    def put(self, content: bytes) -> None:
        """Appends a record. Raises SpoolFullError, OSError; then nothing was appended."""
        record = _HEADER.pack(len(content), zlib.crc32(content)) + content
        if self._bytes + len(record) > self._max_bytes:
            raise SpoolFullError
        segment = self._current()
        assert self._file is not None  # noqa: S101  # opened with the segment
        try:
            self._file.write(record)
        except OSError:
            # Half a record would hide those after it: go on in a new file.
            self._file.close()
            self._file = None
            raise
        segment.size += len(record)
        segment.records += 1
        self._bytes += len(record)

    def take(self, limit: int) -> list[Spooled]:
        """Up to `limit` records that were not taken yet, oldest first. Each must be acknowledged or `retaken`."""
        taken: list[Spooled] = []
        while self._unread and len(taken) < limit:
            segment = self._segments[self._unread[0]]
            contents, segment.read_to = _read(segment.path, segment.read_to, segment.size, limit - len(taken))
            taken += [Spooled(segment.number, content) for content in contents]
            if segment.read_to >= segment.size or not contents:
                if self._file is not None and segment.number == self._last:
                    break
                self._unread.popleft()
        return taken

    def acknowledge(self, record: Spooled) -> None:
        """The record is durable elsewhere."""
        segment = self._segments[record.segment]
        segment.acknowledged += 1
        if segment.acknowledged < segment.records:
            return
        if self._file is not None and segment.number == self._last:
            # A new file for each record that comes alone would cost more than the record.
            if segment.size < _RENEW_BYTES:
                return
            self._file.close()
            self._file = None
        segment.path.unlink(missing_ok=True)
        self._bytes -= segment.size
        del self._segments[segment.number]
        if segment.number in self._unread:
            self._unread.remove(segment.number)

    def sync(self) -> None:
        """Makes what was put survive a loss of power too."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the files; what is not acknowledged stays for the next process."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        segment = self._segments[self._last]
        if segment.acknowledged == segment.records:
            segment.path.unlink(missing_ok=True)

    def _current(self) -> _Segment:
        if self._file is not None:
            segment = self._segments[self._last]
            if segment.size < SEGMENT_BYTES:
                return segment
            self._file.close()
        self._last += 1
        segment = _Segment(self._last, self._directory / f"{self._last:012d}{_SUFFIX}")
        self._file = segment.path.open("ab", buffering=0)
        self._segments[segment.number] = segment
        self._unread.append(segment.number)
        return segment


def _records(raw: bytes) -> list[bytes]:
    """The whole records at the start of `raw`; what follows the first that is not whole is left."""
    found: list[bytes] = []
    at = 0
    while at + _HEADER.size <= len(raw):
        length, checksum = _HEADER.unpack_from(raw, at)
        content = raw[at + _HEADER.size : at + _HEADER.size + length]
        if len(content) < length or zlib.crc32(content) != checksum:
            break
        found.append(content)
        at += _HEADER.size + length
    return found


def _count(path: Path) -> tuple[int, int]:
    found = _records(path.read_bytes())
    return len(found), sum(_HEADER.size + len(content) for content in found)


def _read(path: Path, start: int, end: int, limit: int) -> tuple[list[bytes], int]:
    with path.open("rb") as file:
        file.seek(start)
        found = _records(file.read(end - start))[:limit]
    return found, start + sum(_HEADER.size + len(content) for content in found)
