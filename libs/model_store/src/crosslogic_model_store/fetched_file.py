"""A file that comes in blocks, in any order: what of it is on the disk, and whether it is what the manifest says.

A journal of whole blocks lies beside the file, so that a fetch that was killed is gone on with. What a journal says is
there is read again: after a loss of power it may not be.
"""

import errno
import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.manifest import FileEntry
from crosslogic_model_store.tree_digest import PartDigest, tree_digest

PIECE_BYTES: Final = 512 * 2**10
"""Read, reckoned and written at a time: it stays in the processor's cache between the three. The kernel takes three
times as long for writes of a MiB and more, for which it looks for pages that lie beside each other."""


def open_file(folder: Path, entry: FileEntry, *, part_bytes: int, block_bytes: int) -> "FetchedFile":
    """A file below `folder`. One without parts' checksums, of an older manifest, comes in blocks of `block_bytes`."""
    return FileOfParts(folder, entry, part_bytes) if part_bytes else FileInOrder(folder, entry, block_bytes)


class FetchedFile(ABC):
    """A file that is being fetched."""

    def __init__(self, folder: Path, entry: FileEntry, block_bytes: int) -> None:
        self.entry = entry
        self._block_bytes = block_bytes
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        # The length of blocks is in the name: with another one the numbers mean something else.
        self._journal = path.with_name(f"{path.name}.{block_bytes}.blocks")
        self._count = -(-entry.size_bytes // block_bytes)
        self._held = self._read_journal() if path.exists() else set[int]()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._file, entry.size_bytes)
        self._notes = self._journal.open("a" if self._held else "w")

    @property
    def missing(self) -> list[int]:
        """Blocks that are not there."""
        return [index for index in range(self._count) if index not in self._held]

    @property
    def held(self) -> list[int]:
        """Blocks that are there."""
        return sorted(self._held)

    @property
    def missing_bytes(self) -> int:
        """Of the blocks that are not there."""
        return self.entry.size_bytes - self.held_bytes

    @property
    def held_bytes(self) -> int:
        """Of the blocks that are there."""
        return sum(self.span(index)[1] for index in self._held)

    def span(self, index: int) -> tuple[int, int]:
        """Where a block begins and how long it is."""
        start = index * self._block_bytes
        return start, min(self._block_bytes, self.entry.size_bytes - start)

    def allocate(self, index: int) -> None:
        """Takes the place of a block on the disk: cheaper at once than piece by piece. Raises ModelStoreError."""
        try:
            os.posix_fallocate(self._file, *self.span(index))
        except OSError as error:
            # Not every file system can do this: then the writes tell whether there is place.
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ModelStoreError(f"{self.entry.path} has no place on the disk: {error.strerror}.") from None

    def write(self, start: int, piece: memoryview) -> None:
        """Writes a piece of a block. Raises ModelStoreError: the disk is full or broken; waiting does not mend it."""
        done = 0
        try:
            while done < len(piece):
                done += os.pwrite(self._file, piece[done:], start + done)
        except OSError as error:
            raise ModelStoreError(f"{self.entry.path} cannot be written: {error.strerror}.") from None

    def note(self, index: int) -> None:
        """The block is there."""
        self._notes.write(f"{index}\n")
        self._notes.flush()
        self._held.add(index)

    @abstractmethod
    def begin(self) -> PartDigest | None:
        """What is told a block's bytes while they come. None: the file needs no such thing."""

    @abstractmethod
    def came(self, index: int, digest: PartDigest | None, buffer: memoryview) -> None:
        """The block was written and noted. What is in `buffer` is of no use to anybody."""

    @abstractmethod
    def found(self, index: int, buffer: memoryview) -> None:
        """The block is there from an earlier run: it is read again, through `buffer`."""

    @abstractmethod
    def is_right(self) -> bool:
        """Whether all of it is there and is what the manifest says."""

    def forget(self) -> None:
        """What is there is of no use."""
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends what was opened."""
        self._notes.close()
        os.close(self._file)

    def clean_up(self) -> None:
        """The file is whole."""
        self._journal.unlink(missing_ok=True)

    def _read_again(self, index: int, tell: Callable[[memoryview], object], buffer: memoryview) -> None:
        """Tells what was written of a block, piece by piece. Raises ModelStoreError."""
        start, size = self.span(index)
        done = 0
        while done < size:
            piece = buffer[: size - done]
            try:
                count = os.preadv(self._file, [piece], start + done)
            except OSError as error:
                raise ModelStoreError(f"{self.entry.path} cannot be read again: {error.strerror}.") from None
            if not count:
                raise ModelStoreError(f"{self.entry.path} became shorter while it was fetched.")
            tell(piece[:count])
            done += count

    def _read_journal(self) -> set[int]:
        try:
            words = self._journal.read_text().split("\n")[:-1]
        except OSError:
            return set()
        return {int(word) for word in words if word.isdecimal() and int(word) < self._count}


class FileOfParts(FetchedFile):
    """Its checksum is that of its parts, each of which is reckoned by whoever brings it."""

    def __init__(self, folder: Path, entry: FileEntry, part_bytes: int) -> None:
        super().__init__(folder, entry, part_bytes)
        self._digests: dict[int, bytes] = {}

    def begin(self) -> PartDigest | None:
        """See FetchedFile."""
        return PartDigest()

    def came(self, index: int, digest: PartDigest | None, buffer: memoryview) -> None:
        """See FetchedFile."""
        del buffer
        if digest is not None:
            self._digests[index] = digest.digest()

    def found(self, index: int, buffer: memoryview) -> None:
        """See FetchedFile."""
        digest = PartDigest()
        self._read_again(index, digest.update, buffer)
        self.came(index, digest, buffer)

    def is_right(self) -> bool:
        """See FetchedFile."""
        return (
            len(self._digests) == self._count
            and tree_digest(self._digests[index] for index in range(self._count)) == self.entry.tree
        )


class FileInOrder(FetchedFile):
    """Of an older manifest: one checksum over all of it, reckoned as far as blocks follow each other."""

    def __init__(self, folder: Path, entry: FileEntry, block_bytes: int) -> None:
        super().__init__(folder, entry, block_bytes)
        self._digest = hashlib.sha256()
        self._hashed = 0
        self._hashing = threading.Lock()

    def begin(self) -> PartDigest | None:
        """See FetchedFile."""
        return None

    def came(self, index: int, digest: PartDigest | None, buffer: memoryview) -> None:
        """See FetchedFile."""
        del index, digest
        self._advance(buffer)

    def found(self, index: int, buffer: memoryview) -> None:
        """See FetchedFile."""
        del index
        self._advance(buffer)

    def is_right(self) -> bool:
        """See FetchedFile."""
        return self._hashed == self._count and self._digest.hexdigest() == self.entry.sha256

    def _advance(self, buffer: memoryview) -> None:
        # One thread does, the others go on.
        while self._is_next_held():
            if not self._hashing.acquire(blocking=False):
                return
            try:
                while self._is_next_held():
                    self._read_again(self._hashed, self._digest.update, buffer)
                    self._hashed += 1
            finally:
                self._hashing.release()

    def _is_next_held(self) -> bool:
        return self._hashed < self._count and self._hashed in self._held
