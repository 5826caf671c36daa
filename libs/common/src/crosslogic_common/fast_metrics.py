"""Counters and histograms for the hot path of an event loop.

prometheus_client takes a lock and finds a child by its labels for each observation, about 1 µs. These are plain numbers
in a dictionary that the caller's one thread changes; a scrape, on another thread, copies them. The number of label sets
is bounded: what comes after the last is counted under labels that are all `other`.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

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
    ) -> None:
        """`name` without `_total`."""
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._max_series = max_series
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
        registry.register(self)

    def observe(self, labels: Labels, value: float) -> None:
        """Notes one value."""
        counts = self._values.get(labels)
        if counts is None:
            counts = self._series(labels)
        counts[bisect_left(self._bounds, value)] += 1
        counts[-1] += value

    def _series(self, labels: Labels) -> list[float]:
        if len(self._values) >= self._max_series:
            labels = self._other
        return self._values.setdefault(labels, [0] * (len(self._bounds) + 2))

    def collect(self) -> Iterable[Metric]:
        """For the scrape."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, counts in list(self._values.items()):
            *each, above, total = tuple(counts)
            below = 0.0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip(self._bounds, each, strict=True):
                below += count
                buckets.append((str(float(bound)), below))
            buckets.append(("+Inf", below + above))
            family.add_metric(labels, buckets, total)
        yield family

    def describe(self) -> Iterable[Metric]:
        """For the registry: the name, without values."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)
