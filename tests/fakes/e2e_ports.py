"""Ports for what a test starts beside a suite."""

import random

from crosslogic_dev.ports import is_free


def two_free_ports() -> int:
    """The first of two free ports beside each other, where no suite looks for its own."""
    while True:
        port = random.randrange(12_000, 19_000)
        if is_free(port) and is_free(port + 1):
            return port
