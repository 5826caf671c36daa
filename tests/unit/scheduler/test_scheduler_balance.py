"""How evenly a fleet is loaded, simulated, and held against an oracle that always knows the least loaded node."""

import heapq
import random

import pytest

from crosslogic_scheduler import policy
from crosslogic_scheduler.domain import NodeState
from crosslogic_scheduler.pool import Pool


def fleet(size: int, capacities: tuple[float, ...], seed: int) -> Pool:
    draw = random.Random(seed)
    pool = Pool()
    for number in range(size):
        capacity = draw.choice(capacities)
        load, step = policy.load_of(capacity=capacity, decode_tokens_per_sec=50, current_tokens_per_sec=0, waiting=0)
        pool.add(
            NodeState(
                id=str(number),
                address="",
                region="",
                org_id="",
                models=frozenset(),
                reachable=True,
                capacity=capacity,
                load=load,
                step=step,
            )
        )
    return pool


def loads_after(pool: Pool, requests: int, seed: int) -> list[float]:
    draw = random.Random(seed).random
    for _ in range(requests):
        picked = policy.pick_one(pool, (), draw, 0.0)
        assert picked is not None
        picked.load += picked.step
    return [node.load for node in pool.nodes]


def oracle_loads(pool: Pool, requests: int) -> list[float]:
    """Each request to the node that it leaves least loaded, of all."""
    heap = [(node.load + node.step, number, node.step) for number, node in enumerate(pool.nodes)]
    heapq.heapify(heap)
    for _ in range(requests):
        next_load, number, step = heap[0]
        heapq.heapreplace(heap, (next_load + step, number, step))
    return [next_load - step for next_load, _, step in heap]


@pytest.mark.parametrize("size", [2, 3, policy.SMALL_POOL])
@pytest.mark.parametrize("capacities", [(1000.0,), (500.0, 1000.0, 4000.0)])
def test_a_small_fleet_is_loaded_as_evenly_as_one_can(size: int, capacities: tuple[float, ...]) -> None:
    requests = 1000
    best = max(oracle_loads(fleet(size, capacities, seed=3), requests))
    assert max(loads_after(fleet(size, capacities, seed=3), requests, seed=1)) == pytest.approx(best)


@pytest.mark.parametrize("size", [policy.SMALL_POOL + 1, 50, 1000])
@pytest.mark.parametrize("capacities", [(1000.0,), (500.0, 1000.0, 4000.0), (500.0, 16_000.0)])
def test_in_a_large_fleet_no_node_is_far_above_what_an_all_knowing_picker_would_reach(
    size: int, capacities: tuple[float, ...]
) -> None:
    # Filled to about two thirds, between two heartbeats.
    nodes = fleet(size, capacities, seed=3).nodes
    requests = int(sum(0.66 / node.step for node in nodes))
    best = max(oracle_loads(fleet(size, capacities, seed=3), requests))
    worst = max(max(loads_after(fleet(size, capacities, seed=3), requests, seed=seed)) for seed in range(3))
    # Mitzenmacher (2001): log log n / log 2 requests above the mean, 3 or 4 for a thousand nodes.
    assert worst <= best + 3 * max(node.step for node in nodes)


def test_without_counting_its_own_picks_a_scheduler_would_bury_a_node() -> None:
    """The same fleet, with loads frozen between heartbeats: what the counting is for."""
    pool = fleet(8, (1000.0,), seed=3)
    pool.nodes[0].load = -0.01
    draw = random.Random(1).random
    counts = dict.fromkeys((node.id for node in pool.nodes), 0)
    for _ in range(1000):
        picked = policy.pick_one(pool, (), draw, 0.0)
        assert picked is not None
        counts[picked.id] += 1
    assert counts["0"] == 1000
