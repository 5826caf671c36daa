"""A line for each step, with the time since the start."""

import sys
import time
from collections.abc import Callable

Progress = Callable[[str], None]


def printed_progress() -> Progress:
    """Prints each step at once, also into a pipe."""
    begin = time.monotonic()

    def step(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - begin:6.1f} s] {text}\n")
        sys.stdout.flush()

    return step


def no_progress(_text: str) -> None:
    """Says nothing, for tests."""
