"""Old weights leave the disk before it is full. What is in use, and what was used last, stays longest."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crosslogic_common.logs import get_logger
from crosslogic_model_store.in_use import Use, is_used, unused

LOOK_EVERY_S = 60.0
_MAX_DIRECTORIES = 10_000


@dataclass(frozen=True, slots=True)
class Weights:
    """One directory of weights."""

    path: Path
    size_bytes: int
    used_at: float
    """When any of its files was last read or written, seconds since the epoch."""


def to_remove(
    held: Sequence[Weights], *, in_use: Callable[[Path], bool], free_bytes: int, wanted_bytes: int
) -> list[Weights]:
    """What to remove so that `wanted_bytes` are free: unused longest first, never what is in use. Pure."""
    chosen: list[Weights] = []
    for weights in sorted(held, key=lambda each: (each.used_at, str(each.path))):
        if free_bytes >= wanted_bytes:
            break
        if weights.size_bytes and not in_use(weights.path):
            chosen.append(weights)
            free_bytes += weights.size_bytes
    return chosen


class WeightsCleaner:
    """Keeps a share of the disk free, in one directory that holds a directory for each model."""

    def __init__(self, *, directory: Path, keep: Sequence[str], free_percent: float) -> None:
        """`keep` names directories that are in use now; `free_percent` of the file system are kept free."""
        self._directory = directory
        self._keep = frozenset(keep)
        self._free_percent = free_percent
        self._kept_now: dict[str, Use] = {}
        self._log = get_logger(__name__)

    def keep_also(self, name: str) -> None:
        """From now on this directory is in use, as all agents here see. For a thread: it may have to wait."""
        if name not in self._kept_now:
            self._kept_now[name] = Use(self._directory, name)

    def make_room(self, wanted_bytes: int) -> list[Path]:
        """Removes what nobody uses until so many bytes are free, or nothing is left; which that was. For a thread."""
        return self._remove(wanted_bytes)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks now and then for as long as the block lasts."""
        task = asyncio.create_task(self._look_forever(), name="weights")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def clean(self) -> list[Path]:
        """Removes what has to go; which that was. Takes as long as the disk does: for a thread."""
        return self._remove(int(shutil.disk_usage(self._directory).total * self._free_percent / 100))

    def _remove(self, wanted: int) -> list[Path]:
        usage = shutil.disk_usage(self._directory)
        if usage.free >= wanted:
            return []
        held = [_weigh(path) for path in _directories(self._directory)]
        removed: list[Path] = []
        for weights in to_remove(held, in_use=self._in_use, free_bytes=usage.free, wanted_bytes=wanted):
            try:
                with unused(weights.path) as free:
                    if not free:
                        continue
                    shutil.rmtree(weights.path)
            except OSError as error:
                self._log.warning("old weights not removed", path=str(weights.path), reason=error.strerror)
                continue
            self._log.info("old weights removed", path=str(weights.path), bytes=weights.size_bytes)
            removed.append(weights.path)
        return removed

    def _in_use(self, path: Path) -> bool:
        return path.name in self._keep or (path / ".in-use").exists() or is_used(path)

    async def _look_forever(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.clean)
            except OSError as error:
                self._log.warning("the weights' directory cannot be read", reason=error.strerror)
            await asyncio.sleep(LOOK_EVERY_S)


def _directories(directory: Path) -> list[Path]:
    # A link may lead anywhere: what is not a directory of its own is somebody else's.
    found = [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
    return sorted(found)[:_MAX_DIRECTORIES]


def _weigh(path: Path) -> Weights:
    size, used_at = 0, 0.0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                stat = (Path(folder) / name).lstat()
                size += stat.st_blocks * 512
                used_at = max(used_at, stat.st_atime, stat.st_mtime)
    return Weights(path, size, used_at)
