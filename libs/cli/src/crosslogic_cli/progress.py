"""How far long work is: bars at a terminal, and now and then a line where there is none."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

OnBytes = Callable[[int], None]
LINE_EVERY_S: Final = 10.0
_MIB: Final = 2**20


class Bars(Protocol):
    """Pieces of work, one after the other."""

    def add(self, words: str, total_bytes: int) -> OnBytes:
        """Begins one; what it returns is told, from any thread, how many more bytes are done."""


class Lines:
    """A line when work begins to take long, every so often from then on, and at its end."""

    def __init__(self, write: Callable[[str], object], *, now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now = now
        self._lock = threading.Lock()

    def add(self, words: str, total_bytes: int) -> OnBytes:
        """See Bars."""
        begun = told = self._now()
        done = 0

        def on_bytes(count: int) -> None:
            nonlocal done, told
            with self._lock:
                done += count
                now = self._now()
                if now - told < LINE_EVERY_S and (done < total_bytes or now - begun < LINE_EVERY_S):
                    return
                told = now
                share = done / total_bytes if total_bytes else 1.0
                speed = done / max(now - begun, 0.001)
                left = f", {(total_bytes - done) / speed:,.0f} s left" if 0 < done < total_bytes else ""
                self._write(
                    f"{words}: {done / _MIB:,.0f} of {total_bytes / _MIB:,.0f} MiB ({share:.0%}), "
                    f"{speed / _MIB:,.0f} MiB/s{left}\n"
                )

        return on_bytes


class _Hidden:
    def add(self, words: str, total_bytes: int) -> OnBytes:
        del words, total_bytes
        return lambda _count: None


class _Drawn:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def add(self, words: str, total_bytes: int) -> OnBytes:
        task = self._progress.add_task(words, total=total_bytes)
        return lambda count: self._progress.advance(task, count)


@contextmanager
def bars(*, hidden: bool) -> Iterator[Bars]:
    """Shown on the standard error, which a script's output is not mixed with."""
    if hidden:
        yield _Hidden()
    elif not sys.stderr.isatty():
        yield Lines(sys.stderr.write)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield _Drawn(progress)
