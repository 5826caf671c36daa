"""Backups in a folder, such as a mounted volume."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from crosslogic_backup.domain import BackupError

_UNFINISHED = ".unfinished"


class Directory:
    """A Place in the file system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, file: Path) -> None:
        """Copies beside, forces it to the disk, then renames."""
        target = self._folder / name
        beside = target.with_name(target.name + _UNFINISHED)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as source, beside.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1024 * 1024)
                copy.flush()
                os.fsync(copy.fileno())
            beside.rename(target)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise BackupError(f"{target} cannot be written: {error.strerror}") from error

    def get(self, name: str, file: Path) -> None:
        """Copies."""
        try:
            shutil.copyfile(self._folder / name, file)
        except OSError as error:
            raise BackupError(f"{self._folder / name} cannot be read: {error.strerror}") from error

    def names(self) -> Iterable[str]:
        """Every file but unfinished ones."""
        for file in self._folder.rglob("*"):
            if file.is_file() and not file.name.endswith(_UNFINISHED):
                yield file.relative_to(self._folder).as_posix()

    def delete(self, name: str) -> None:
        """Removes the file, and its folder when that is empty."""
        try:
            (self._folder / name).unlink(missing_ok=True)
            if not any((self._folder / name).parent.iterdir()):
                (self._folder / name).parent.rmdir()
        except OSError as error:
            raise BackupError(f"{self._folder / name} cannot be removed: {error.strerror}") from error
