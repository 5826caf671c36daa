"""Jittered exponential backoff between attempts to connect."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Waits that grow from `base_s` to `cap_s`, each drawn evenly from its upper half.

    The half that is always waited keeps a fleet of clients from spinning on a dead server; the half that is drawn keeps
    them from coming back together.
    """

    base_s: float = 0.05
    cap_s: float = 5.0
    uniform: Callable[[], float] = random.random
    _attempts: int = field(default=0, init=False)

    def next_s(self) -> float:
        """How long to wait before the next attempt, in seconds."""
        ceiling_s: float = min(self.cap_s, self.base_s * 2.0 ** min(self._attempts, 32))
        self._attempts += 1
        return ceiling_s * (0.5 + 0.5 * self.uniform())

    def reset(self) -> None:
        """The last attempt succeeded: start small again."""
        self._attempts = 0
