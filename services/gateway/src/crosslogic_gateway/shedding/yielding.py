"""Who yields while the whole service is at its limit: lower priorities, once a higher one was refused. Pure."""

from crosslogic_gateway.shedding.domain import Rank

YIELD_S = 1.0
"""How long lower priorities leave what there is to the higher one that was refused."""


class Yielding:
    """The ranks that are refused without being asked for."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = [0.0] * len(Rank)

    def refused(self, rank: Rank, now: float) -> None:
        """A request of this rank met the whole service's limit, `now` in seconds."""
        for lower in range(rank + 1, len(Rank)):
            self._until[lower] = now + YIELD_S

    def yields(self, rank: Rank, now: float) -> bool:
        """Whether requests of this rank leave the service to others now."""
        return now < self._until[rank]
