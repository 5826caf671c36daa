"""How many requests a node runs at once, by its own reports. Pure."""

import math
from dataclasses import dataclass

KV_FULL = 0.95
"""Share of the KV cache in use from which a node is full: what comes now pushes others out."""
KV_HIGH = 0.9
"""From here on a node is not tried with more."""
_LEAST = 16
"""Fewer places than this are not learned from a short queue: an engine that is slow between two steps has one."""
_BUSY = 0.9
_CALM_REPORTS = 1
_MOST_CALM_REPORTS = 120
_GROWTH = 0.25


@dataclass(frozen=True, slots=True)
class Report:
    """One heartbeat's load."""

    running: int
    waiting: int
    kv_cache_usage: float


class Slots:
    """The places of one node.

    Unknown until the node has a queue or a full cache: then what runs there is what it can run. Afterwards, when the
    node stays busy without a queue, it is tried with a quarter more; where that is too much again, ever less often. The
    first queue may have been one of long prompts, of which few run at a time.
    """

    __slots__ = ("_calm", "_calm_needed", "_queued", "learned", "told")

    def __init__(self, told: int = 0) -> None:
        """`told` is what the engine was started with. 0: not known."""
        self.told = told
        self.learned: float | None = None
        self._queued = False
        """The report before had a queue."""
        self._calm = 0
        self._calm_needed = _CALM_REPORTS

    @property
    def known(self) -> float | None:
        """Requests that it runs at once. None: not known."""
        if self.learned is None:
            return float(self.told) if self.told else None
        return min(self.learned, float(self.told)) if self.told else self.learned

    def take(self, report: Report) -> None:
        """A heartbeat came."""
        queued = report.waiting > 0 and report.running > 0
        # Some that wait for a moment are new arrivals; more than run, or some in two reports running, are a queue.
        full = queued and (self._queued or report.waiting > report.running) and self._for_want_of_places(report)
        if full or report.kv_cache_usage >= KV_FULL:
            self._shrink(report)
        elif queued or report.kv_cache_usage >= KV_HIGH:
            self._calm = 0
        else:
            self._grow(report)
        self._queued = queued

    def _for_want_of_places(self, report: Report) -> bool:
        """A short queue at a node with half its places free waits for something else: for the engine's next step."""
        return self.learned is None or report.waiting >= _LEAST or report.running >= self.learned / 2

    def _shrink(self, report: Report) -> None:
        if self.learned is not None and report.running < self.learned:
            # The last try was one too many: the next one comes later.
            self._calm_needed = min(self._calm_needed * 2, _MOST_CALM_REPORTS)
        first = 1.0 if report.waiting >= _LEAST else float(_LEAST)
        lowest = first if self.learned is None else self.learned / 2
        self.learned = max(float(report.running), lowest, 1.0)
        self._calm = 0

    def _grow(self, report: Report) -> None:
        if self.learned is None or report.running < self.learned * _BUSY:
            return
        self._calm += 1
        if self._calm >= self._calm_needed:
            self._calm = 0
            self.learned += max(1.0, math.floor(self.learned * _GROWTH))
