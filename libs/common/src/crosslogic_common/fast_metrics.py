"""Counters and histograms for the hot path of an event loop.

prometheus_client takes a lock and finds a child by its labels for each observation, about 1 µs. These are plain numbers
in a dictionary that the caller's one thread changes; a scrape, on another thread, copies them. The number of label sets
is bounded: what comes after the last is counted under labels that are all `other`.

A histogram can keep an exemplar a bucket, the trace of the latest sampled request that fell into it: only such requests
pay for it.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

Labels = tuple[str, ...]
MAX_SERIES = 5_000


class FastCounter(Collector):
    """A counter by labels."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        registry: CollectorRegistry,
        max_series: int = MAX_SERIES,
        forgets: bool = False,
    ) -> None:
        """`name` without `_total`. `forgets`: labels come and go, so the oldest make room for new ones."""
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._max_series = max_series
        self._forgets = forgets
        self._other = ("other",) * len(self._labels)
        self._values: dict[Labels, float] = {}
        registry.register(self)

    def inc(self, labels: Labels = (), amount: float = 1) -> None:
        """Adds `amount`."""
        values = self._values
        if labels in values:
            values[labels] += amount
        elif len(values) < self._max_series:
            values[labels] = amount
        elif self._forgets:
            del values[next(iter(values))]
            values[labels] = amount
        else:
            values[self._other] = values.get(self._other, 0) + amount

    def value(self, labels: Labels = ()) -> float:
        """What was counted under these labels."""
        return self._values.get(labels, 0)

    def collect(self) -> Iterable[Metric]:
        """For the scrape."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in list(self._values.items()):
            family.add_metric(labels, value)
        yield family

    def describe(self) -> Iterable[Metric]:
        """For the registry: the name, without values."""
        yield CounterMetricFamily(self._name, self._text, labels=self._labels)


class FastHistogram(Collector):
    """A histogram by labels."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
        max_series: int = MAX_SERIES,
    ) -> None:
        """`buckets` are the upper bounds, ascending, without infinity."""
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._bounds = tuple(buckets)
        self._max_series = max_series
        self._other = ("other",) * len(self._labels)
        # Counts of each bucket, then of what is above the last; the sum at the end.
        self._values: dict[Labels, list[float]] = {}
        self._exemplars: dict[tuple[Labels, int], Exemplar] = {}
        registry.register(self)

    def observe(self, labels: Labels, value: float) -> None:
        """Notes one value."""
        counts = self._values.get(labels)
        if counts is None:
            counts = self._series(labels)
        counts[bisect_left(self._bounds, value)] += 1
        counts[-1] += value

    def under(self, labels: Labels) -> Callable[[float], None]:
        """What notes one value under these labels: for those who note many."""
        counts, bounds = self._series(labels), self._bounds

        def observe(value: float) -> None:
            counts[bisect_left(bounds, value)] += 1
            counts[-1] += value

        return observe

    def exemplify(self, labels: Labels, value: float, *, trace_id: str, at_unix_s: float) -> None:
        """Notes the trace of a request whose `value` was observed under these labels."""
        if labels in self._values:
            found = Exemplar({"trace_id": trace_id}, value, at_unix_s)
            self._exemplars[labels, bisect_left(self._bounds, value)] = found

    def _series(self, labels: Labels) -> list[float]:
        if labels not in self._values and len(self._values) >= self._max_series:
            labels = self._other
        return self._values.setdefault(labels, [0] * (len(self._bounds) + 2))

    def collect(self) -> Iterable[Metric]:
        """For the scrape."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, counts in list(self._values.items()):
            *each, above, total = tuple(counts)
            below = 0.0
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for index, count in enumerate((*each, above)):
                below += count
                bound = str(float(self._bounds[index])) if index < len(each) else "+Inf"
                exemplar = self._exemplars.get((labels, index))
                buckets.append((bound, below) if exemplar is None else (bound, below, exemplar))
            family.add_metric(labels, buckets, total)
        yield family

    def describe(self) -> Iterable[Metric]:
        """For the registry: the name, without values."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)
