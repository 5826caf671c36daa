"""Ids: two requests never share one, and a range of time is a range of ids."""

import uuid
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.ids import Uuid7Source, floor, time_ms

# Nanoseconds since the epoch, from 1970 to about 2200.
TIMES_NS = st.integers(0, 7_258_118_400_000_000_000)


def source(times_ns: Iterator[int]) -> Uuid7Source:
    return Uuid7Source(now_ns=lambda: next(times_ns), random_bytes=lambda count: b"\xff" * count)


@given(st.lists(TIMES_NS, min_size=1, max_size=50))
def test_ids_grow_even_when_the_clock_stands_still_or_steps_back(times_ns: list[int]) -> None:
    ids = source(iter(times_ns))
    made = [ids.next() for _ in times_ns]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


@given(TIMES_NS)
def test_id_is_a_version_7_uuid_that_tells_its_millisecond(time_ns: int) -> None:
    made = source(iter([time_ns])).next()
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert time_ms(made) == time_ns // 1_000_000


@given(TIMES_NS, st.integers(0, 7_258_118_400_000))
def test_query_from_a_millisecond_on_misses_nothing_and_takes_nothing_earlier(time_ns: int, millis: int) -> None:
    made = source(iter([time_ns])).next()
    assert (made >= floor(millis)) == (time_ns // 1_000_000 >= millis)


def test_sources_of_two_processes_do_not_collide() -> None:
    made = [Uuid7Source(now_ns=lambda: 1).next() for _ in range(1000)]
    assert len(set(made)) == 1000
