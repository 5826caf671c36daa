"""When a slow first token is worth asking a second node: after the time in which nearly all others came."""

from collections import OrderedDict, deque

SAMPLES = 256
"""First tokens of a model that are remembered."""
LEAST_SAMPLES = 40
"""Before so many are known, no time can be called unusual."""
EVERY = 16
"""How many new ones come before the percentile is taken anew."""
MAX_MODELS = 1_000
PERCENTILE = 0.95
LEAST_DELAY_S = 0.02
"""A second request within this costs more than the first token's delay."""


class _Times:
    """The last first tokens of one model."""

    __slots__ = ("_new", "_seconds", "delay_s")

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=SAMPLES)
        self._new = 0
        self.delay_s: float | None = None

    def note(self, seconds: float) -> None:
        self._seconds.append(seconds)
        self._new += 1
        if self._new >= EVERY and len(self._seconds) >= LEAST_SAMPLES:
            self._new = 0
            ordered = sorted(self._seconds)
            self.delay_s = max(ordered[int(len(ordered) * PERCENTILE)], LEAST_DELAY_S)


class Hedging:
    """Knows for which models a second node is asked, and after how long."""

    def __init__(self, models: frozenset[str]) -> None:
        """`models` are names of the catalogue; `*`: all of them."""
        self._models = models
        self._all = "*" in models
        self._times: OrderedDict[str, _Times] = OrderedDict()
        self.asked = 0
        """Times that a second node was asked."""
        self.won = 0
        """Times that it answered first."""

    def wanted(self, model: str) -> bool:
        """Whether slow first tokens of the model are hedged."""
        return self._all or model in self._models

    def note(self, model: str, first_byte_s: float) -> None:
        """A first token came after so many seconds."""
        times = self._times.get(model)
        if times is None:
            times = self._times[model] = _Times()
            if len(self._times) > MAX_MODELS:
                self._times.popitem(last=False)
        times.note(first_byte_s)

    def delay_s(self, model: str) -> float | None:
        """After how many seconds a second node is asked; None: it is not known yet."""
        times = self._times.get(model)
        return None if times is None else times.delay_s
