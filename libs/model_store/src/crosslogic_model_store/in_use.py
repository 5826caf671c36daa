"""Which folders of weights somebody uses, among all processes of a machine.

A shared lock on a file beside the folder says so, for as long as its holder lives: a process that is killed lets go of
it, which a marker in the folder would not. Whoever removes a folder takes the same lock for himself alone.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_FETCHED: Final = ".fetch-"


class Use:
    """That a folder is used, until `end` or the process's end."""

    def __init__(self, root: Path, name: str) -> None:
        """`name` is the folder's; waits while somebody removes it, which ends by itself. Raises OSError."""
        self._lock = os.open(_lock_file(root, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def end(self) -> None:
        """It is used no longer."""
        os.close(self._lock)


def is_used(folder: Path) -> bool:
    """Whether somebody uses a folder now. Raises OSError."""
    if not _lock_file_of(folder).exists():
        return False
    with unused(folder) as free:
        return not free


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Whether nobody uses a folder, which stays so for as long as the block lasts. Raises OSError."""
    lock = os.open(_lock_file_of(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def fetched_folder(root: Path, name: str) -> Path:
    """Where a version lies while it is fetched. It is in use with its version."""
    return root / f"{_FETCHED}{name}"


def _lock_file_of(folder: Path) -> Path:
    return _lock_file(folder.parent, folder.name.removeprefix(_FETCHED))


def _lock_file(root: Path, name: str) -> Path:
    return root / f".used-{name}"
