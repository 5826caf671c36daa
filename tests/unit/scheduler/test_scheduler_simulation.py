"""Strategies on a simulated fleet and a trace of public shape, held against an oracle that knows queues and caches."""

from dataclasses import dataclass, field

import pytest

from benchmarks.pick_simulation import Outcome, by_oracle, by_scheduler, fleet, requests_per_s
from benchmarks.pick_trace import Arrival, Shape, trace
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.outliers import Reason

SIZE = 12
REQUESTS = 3_000


@dataclass
class Replay:
    arrivals: list[Arrival]
    oracle: Outcome
    ejected: list[Reason] = field(default_factory=list)

    def by(self, strategy: pb.PickStrategy.ValueType, *, sessions: bool = False) -> Outcome:
        return by_scheduler(self.arrivals, fleet(SIZE), strategy, sessions=sessions, ejected=self.ejected.append)


@pytest.fixture(scope="module")
def replay() -> Replay:
    per_s = requests_per_s(fleet(SIZE), 0.6)
    arrivals = list(trace(Shape(), per_s=per_s, requests=REQUESTS, seed=3))
    return Replay(arrivals, by_oracle(arrivals, fleet(SIZE)))


def test_the_trace_is_as_bursty_and_as_long_tailed_as_public_ones(replay: Replay) -> None:
    gaps = [after.at_s - before.at_s for before, after in zip(replay.arrivals, replay.arrivals[1:], strict=False)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation / mean == pytest.approx(2.0, abs=0.3)
    prompts = sorted(each.prompt_tokens for each in replay.arrivals)
    assert prompts[len(prompts) // 2] < sum(prompts) / len(prompts) < prompts[-len(prompts) // 100]


def test_least_load_keeps_first_tokens_within_a_few_times_the_all_knowing_pickers(replay: Replay) -> None:
    seen = replay.by(pb.PICK_STRATEGY_LEAST_LOAD)
    assert seen.mean_first_token_ms < 4 * replay.oracle.mean_first_token_ms
    assert seen.mean_first_token_ms < 0.7 * replay.by(pb.PICK_STRATEGY_ROUND_ROBIN).mean_first_token_ms
    assert seen.mean_first_token_ms < 0.7 * replay.by(pb.PICK_STRATEGY_LEAST_CONNECTIONS).mean_first_token_ms


def test_prefix_affinity_reads_less_and_answers_sooner_than_load_alone(replay: Replay) -> None:
    seen, least_load = replay.by(pb.PICK_STRATEGY_PREFIX_AFFINITY), replay.by(pb.PICK_STRATEGY_LEAST_LOAD)
    assert seen.cached_share > 1.5 * least_load.cached_share
    assert seen.cached_share > 0.75 * replay.oracle.cached_share
    assert seen.mean_first_token_ms < 0.8 * least_load.mean_first_token_ms
    assert seen.p99_first_token_ms < 1.2 * least_load.p99_first_token_ms


def test_sessions_find_their_conversations_cache(replay: Replay) -> None:
    seen = replay.by(pb.PICK_STRATEGY_LEAST_LOAD, sessions=True)
    assert seen.cached_share > 1.15 * replay.by(pb.PICK_STRATEGY_LEAST_LOAD).cached_share


@pytest.mark.parametrize("strategy", list(pb.PickStrategy.values()))
def test_no_strategy_loses_a_request_and_no_healthy_node_is_ejected(
    replay: Replay, strategy: pb.PickStrategy.ValueType
) -> None:
    replay.ejected.clear()
    assert len(replay.by(strategy).whole_s) == REQUESTS
    assert replay.ejected == []


@pytest.mark.parametrize("strategy", [pb.PICK_STRATEGY_LEAST_LOAD, pb.PICK_STRATEGY_PREFIX_AFFINITY])
def test_a_node_that_is_ten_times_slower_than_it_says_is_ejected(strategy: pb.PickStrategy.ValueType) -> None:
    engines = fleet(SIZE)
    engines[5].slower = 10.0
    ejected: list[Reason] = []
    arrivals = trace(Shape(), per_s=requests_per_s(engines, 0.5), requests=REQUESTS, seed=3)
    by_scheduler(arrivals, engines, strategy, ejected=ejected.append)
    assert set(ejected) == {Reason.SLOW}
