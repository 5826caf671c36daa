"""Which node a request gets."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_scheduler import policy
from crosslogic_scheduler.domain import NodeState
from crosslogic_scheduler.pool import Pool

LOADS = st.integers(0, 400).map(lambda percent: percent / 100)
DRAWS = st.floats(0, 1, exclude_max=True, allow_nan=False)


def node(number: int, load: float = 0.0, *, capacity: float = 1000.0) -> NodeState:
    return NodeState(
        id=f"n{number}", address=f"10.0.0.{number}:7300", region="", org_id="", models=frozenset("m"), reachable=True,
        capacity=capacity, load=load, step=0.01,
    )  # fmt: skip


def pool(*nodes: NodeState) -> Pool:
    made = Pool()
    for each in nodes:
        made.add(each)
    return made


def pool_of(loads: list[float]) -> Pool:
    return pool(*(node(number, load) for number, load in enumerate(loads)))


@given(loads=st.lists(LOADS, min_size=1, max_size=policy.SMALL_POOL), draw=DRAWS)
def test_a_request_in_a_small_fleet_never_gets_a_busier_node_than_it_could_have(
    loads: list[float], draw: float
) -> None:
    picked = policy.pick_one(pool_of(loads), (), lambda: draw, 0.0)
    assert picked is not None
    assert picked.load == min(loads)


@given(loads=st.lists(LOADS, min_size=1, max_size=40), data=st.data())
def test_a_node_that_failed_a_request_never_gets_it_again_and_any_other_does(
    loads: list[float], data: st.DataObject
) -> None:
    candidates = pool_of(loads)
    excluded = data.draw(st.sets(st.sampled_from([each.id for each in candidates.nodes])))
    draws = iter(data.draw(st.lists(DRAWS, min_size=4, max_size=4)))
    picked = policy.pick_one(candidates, excluded, lambda: next(draws), 0.0)
    if len(excluded) == len(loads):
        assert picked is None
    else:
        assert picked is not None
        assert picked.id not in excluded


def test_in_a_large_fleet_of_equals_the_busiest_node_gets_next_to_nothing() -> None:
    draw = random.Random(1).random
    candidates = pool_of([0.1] * 19 + [0.9])
    picked = Counter(each.id for _ in range(4000) if (each := policy.pick_one(candidates, (), draw, 0.0)) is not None)
    # Only where it is drawn twice.
    assert picked["n19"] < 4000 * 3 / 20**2


def test_nodes_of_a_large_fleet_are_drawn_by_what_they_can_do() -> None:
    draw = random.Random(1).random
    candidates = pool(*(node(number, capacity=4000.0 if number % 2 else 1000.0) for number in range(20)))
    drawn = Counter(policy._drawn(candidates, 20, draw).capacity for _ in range(20_000))
    assert drawn[4000.0] / drawn[1000.0] == pytest.approx(4.0, rel=0.1)


def test_a_node_that_claims_to_be_enormous_does_not_draw_every_request() -> None:
    draw = random.Random(1).random
    candidates = pool(node(0, capacity=1e12), *(node(number) for number in range(1, 200)))
    drawn = Counter(policy._drawn(candidates, 200, draw).id for _ in range(10_000))
    assert drawn["n0"] < 10_000 * 2 * policy.MAX_DRAWS / 200


def test_load_is_what_runs_over_what_the_node_can_and_waiting_requests_count_as_streams() -> None:
    load, step = policy.load_of(
        capacity=policy.capacity_of(1000), decode_tokens_per_sec=50, current_tokens_per_sec=250, waiting=4
    )
    assert (load, step) == (0.45, 0.05)


@given(
    figures=st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 3),
    waiting=st.integers(0, 2**32 - 1),
)
def test_a_node_that_lies_about_itself_cannot_break_comparing(figures: tuple[float, ...], waiting: int) -> None:
    maximum, decode, current = figures
    load, step = policy.load_of(
        capacity=policy.capacity_of(maximum),
        decode_tokens_per_sec=decode,
        current_tokens_per_sec=current,
        waiting=waiting,
    )
    assert load >= 0
    assert 0 <= step <= 1
    assert not math.isnan(load + step)


@pytest.mark.parametrize(("maximum", "decode"), [(0.0, 0.0), (500.0, 0.0), (0.0, 40.0)])
def test_a_node_that_was_not_measured_still_fills_up_with_each_request(maximum: float, decode: float) -> None:
    _, step = policy.load_of(
        capacity=policy.capacity_of(maximum), decode_tokens_per_sec=decode, current_tokens_per_sec=0, waiting=0
    )
    assert step > 0


def test_a_long_prompt_on_its_way_to_a_node_counts_until_it_is_read() -> None:
    reading, idle = node(1), node(2, load=0.3)
    reading.reads_until = 11.0
    assert policy.pick_one(pool(reading, idle), (), random.random, 10.0) is idle
    assert policy.pick_one(pool(reading, idle), (), random.random, 11.0) is reading


def test_a_node_that_has_become_slow_is_not_taken_for_free() -> None:
    of = {"capacity": 1000.0, "decode_tokens_per_sec": 50.0, "waiting": 0}
    assert policy.load_of(**of, current_tokens_per_sec=30, running=16)[0] == pytest.approx(0.8)  # type: ignore[arg-type]
    assert policy.load_of(**of, current_tokens_per_sec=900, running=16)[0] == pytest.approx(0.9)  # type: ignore[arg-type]


def test_a_stuck_node_of_a_large_fleet_does_not_get_the_draws_that_meet_it_twice() -> None:
    draw = random.Random(1).random
    candidates = pool_of([0.1] * 11 + [50.0])
    picked = Counter(each.id for _ in range(6000) if (each := policy.pick_one(candidates, (), draw, 0.0)) is not None)
    # Drawn twice in a row, then once more: 6,000 / 12 ** 3.
    assert picked["n11"] <= 12
