"""Waiting for something that nobody announces."""

import time
from collections.abc import Callable


def wait_until(done: Callable[[], bool], *, timeout_s: float, poll_s: float = 0.05) -> bool:
    """Asks every `poll_s` until it is done (True) or `timeout_s` is over (False)."""
    until = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(poll_s)
    return True
