"""Metrics of the hot path say what prometheus_client's own would, and stay bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from crosslogic_common.fast_metrics import FastCounter, FastHistogram

BUCKETS = (0.1, 1.0, 10.0)


def lines(registry: CollectorRegistry) -> set[str]:
    return {line for line in generate_latest(registry).decode().splitlines() if "_created" not in line}


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.floats(0, 100).map(lambda value: round(value, 2))), max_size=50)
)
def test_scrape_reads_as_the_library_would_write_it(values: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    fast = FastHistogram("x_seconds", "Text.", ["who"], buckets=BUCKETS, registry=ours)
    slow = Histogram("x_seconds", "Text.", ["who"], buckets=BUCKETS, registry=theirs)
    fast_count = FastCounter("x", "Text.", ["who"], registry=ours)
    slow_count = Counter("x", "Text.", ["who"], registry=theirs)
    for who, value in values:
        fast.observe((who,), value)
        slow.labels(who).observe(value)
        fast_count.inc((who,), value)
        slow_count.labels(who).inc(value)
    assert lines(ours) == lines(theirs)


def test_label_sets_are_bounded() -> None:
    registry = CollectorRegistry()
    counter = FastCounter("x", "Text.", ["who"], registry=registry, max_series=2)
    histogram = FastHistogram("y", "Text.", ["who"], buckets=BUCKETS, registry=registry, max_series=2)
    for number in range(100):
        counter.inc((str(number),))
        histogram.observe((str(number),), 1)
    assert counter.value(("other",)) == 98
    assert 'y_count{who="other"} 98.0' in lines(registry)
    assert len([line for line in lines(registry) if line.startswith("x_total{")]) == 3


def test_two_metrics_of_one_name_are_refused() -> None:
    registry = CollectorRegistry()
    FastCounter("x", "Text.", registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        FastCounter("x", "Text.", registry=registry)


def test_counter_of_what_comes_and_goes_still_counts_what_is_new() -> None:
    registry = CollectorRegistry()
    counter = FastCounter("x", "Text.", ["node"], registry=registry, max_series=3, forgets=True)
    for number in range(100):
        counter.inc((str(number),))
    assert {line for line in lines(registry) if line.startswith("x_total{")} == {
        f'x_total{{node="{number}"}} 1.0' for number in (97, 98, 99)
    }


def test_slow_bucket_leads_to_the_trace_of_a_request_that_was_slow() -> None:
    registry = CollectorRegistry()
    histogram = FastHistogram("x_seconds", "Text.", ["who"], buckets=BUCKETS, registry=registry)
    histogram.exemplify(("nobody",), 5.0, trace_id="aa", at_unix_s=1.0)
    for value in (0.5, 5.0, 50.0):
        histogram.observe(("a",), value)
    histogram.exemplify(("a",), 5.0, trace_id="ab" * 16, at_unix_s=1_000.5)
    text = generate_openmetrics(registry).decode()  # type: ignore[no-untyped-call]
    assert f'x_seconds_bucket{{le="10.0",who="a"}} 2.0 # {{trace_id="{"ab" * 16}"}} 5.0 1000.5' in text
    assert text.count("# {") == 1
    assert 'x_seconds_bucket{le="10.0",who="a"} 2.0' in lines(registry)


def test_values_noted_the_short_way_are_counted_with_the_others_and_stay_bounded() -> None:
    registry = CollectorRegistry()
    histogram = FastHistogram("x", "Text.", ["who"], buckets=BUCKETS, registry=registry, max_series=2)
    histogram.observe(("a",), 1)
    for name in "aabcde":
        histogram.under((name,))(1)
    assert {'x_count{who="a"} 3.0', 'x_count{who="b"} 1.0', 'x_count{who="other"} 3.0'} <= lines(registry)
