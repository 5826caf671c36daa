"""The checksum of a file that comes in parts, in any order and by several threads at a time.

A part's digest is the BLAKE3 of its bytes, reckoned while they come. The file's is the BLAKE3 of its parts' digests,
one after the other: whoever has brought all parts has the file's checksum without reading it again. All parts of a file
are of one length but the last, which may be shorter.
"""

from collections.abc import Iterable
from typing import Final

from blake3 import blake3

PART_BYTES: Final = 16 * 2**20
"""Of what is uploaded from now on; a manifest says what it was made with."""
LEAST_PART_BYTES: Final = 4096
MOST_PART_BYTES: Final = 2**30


class PartDigest:
    """Of one part."""

    def __init__(self) -> None:
        self._digest = blake3()

    def update(self, piece: bytes | memoryview) -> None:
        """What follows. Others may run meanwhile."""
        self._digest.update(piece)

    def digest(self) -> bytes:
        """Of what came so far."""
        return self._digest.digest()


def tree_digest(parts: Iterable[bytes]) -> str:
    """A file's checksum from those of its parts, in their order; 64 hex digits."""
    return blake3(b"".join(parts)).hexdigest()


class FileDigest:
    """Of a file that is read from its beginning to its end."""

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._left_bytes = part_bytes
        self._part = PartDigest()
        self._parts: list[bytes] = []

    def update(self, piece: memoryview) -> None:
        """What follows."""
        while len(piece):
            now = piece[: self._left_bytes]
            self._part.update(now)
            self._left_bytes -= len(now)
            piece = piece[len(now) :]
            if not self._left_bytes:
                self._end_part()

    def hexdigest(self) -> str:
        """The file's, once all of it was told."""
        if self._left_bytes < self._part_bytes:
            self._end_part()
        return tree_digest(self._parts)

    def _end_part(self) -> None:
        self._parts.append(self._part.digest())
        self._part, self._left_bytes = PartDigest(), self._part_bytes
