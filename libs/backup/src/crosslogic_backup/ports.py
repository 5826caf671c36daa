"""What backups need from the world."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol


class Place(Protocol):
    """Where backups are kept: named objects. Everything may raise BackupError."""

    def put(self, name: str, file: Path) -> None:
        """Stores a file; it is there whole or not at all."""

    def get(self, name: str, file: Path) -> None:
        """Writes an object to `file`."""

    def names(self) -> Iterable[str]:
        """Every object."""

    def delete(self, name: str) -> None:
        """Removes an object, if it is there."""
