"""How late the event loop is, and who is refused for it. Pure: time is told."""

from collections import deque

from crosslogic_gateway.shedding.domain import Rank

LOOKS = 5
LOOK_S = 0.1


class LoopLag:
    """The least lag of the last looks: one long step is no overload, five in a row are."""

    def __init__(self, *, shed_from_s: float) -> None:
        """From `shed_from_s` on the lowest rank is refused, normal from twice and high from four times that."""
        self._looks: deque[float] = deque([0.0] * LOOKS, maxlen=LOOKS)
        self._from_s = {Rank.LOW: shed_from_s, Rank.NORMAL: 2 * shed_from_s, Rank.HIGH: 4 * shed_from_s}
        self.lag_s = 0.0

    def look(self, late_s: float) -> None:
        """The loop woke `late_s` seconds late from a short sleep."""
        self._looks.append(max(0.0, late_s))
        self.lag_s = min(self._looks)

    def refuses(self, rank: Rank) -> bool:
        """Whether requests of the rank are refused now."""
        return self.lag_s >= self._from_s[rank]
