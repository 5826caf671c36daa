"""A small part of `make chaos`, `make trial-nodes`, `-rolling` and `-weights`, for every change."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosslogic_dev.suite import Suite
from crosslogic_dev.topology import SERVICES
from tests.chaos import trial_rolling, trial_weights
from tests.chaos.catalogue import AS_TESTS, EXPERIMENTS
from tests.chaos.clients import Client
from tests.chaos.experiments import e102_network
from tests.chaos.trial_nodes import Trial, run_trial
from tests.chaos.world import STEP_MS, World, chaos_suite
from tests.fakes.s3_server import s3_server

SIZE = 0.05
ROLLING = trial_rolling.Trial(rate=25.0, rounds=1, pre_stop_s=0.5, pause_s=0.3)
TRIAL = Trial(nodes=3, streams=24, seconds=6.0, kill_every_s=2.0, step_ms=STEP_MS, tokens=60)


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with chaos_suite() as running:
        yield running


@pytest.mark.parametrize("number", [1, 2, 3, 5, 9, 20, 23])
async def test_experiment(suite: Suite, number: int) -> None:
    async with Client(suite) as client:
        await EXPERIMENTS[number](World(suite, client, random.Random(number), SIZE))


@pytest.mark.parametrize(("pair", "fault"), [("gateway-scheduler", "cut back"), ("gateway-agent", "slow client")])
async def test_network_fault_between_two_processes_keeps_no_client_waiting(suite: Suite, pair: str, fault: str) -> None:
    async with Client(suite) as client:
        pairs = [each for each in e102_network.PAIRS if each.name == pair]
        await e102_network.try_network(World(suite, client, random.Random(102), SIZE), pairs, [fault], seconds=1.5)


async def test_nodes_die_one_after_the_other_and_no_stream_fails_or_differs(suite: Suite) -> None:
    outcome = await run_trial(suite, TRIAL, seed=7)
    assert (outcome.failed, outcome.corrupted) == (0, 0)
    assert outcome.kills >= 2
    assert outcome.failed_over > 0, "the nodes that died had nothing to do"


async def test_everything_is_replaced_under_load_and_no_request_fails(suite: Suite) -> None:
    groups = [SERVICES, ("gateway",), ("node_agent-1",)]
    outcome = await trial_rolling.run_trial(suite, ROLLING, groups, seed=3)
    assert (outcome.failed, outcome.corrupted) == (0, 0)
    assert outcome.gone_after_s.keys() == {*SERVICES, "gateway", "node_agent-1"}
    assert outcome.requests > 50


async def test_machine_loads_from_a_slow_storage_and_another_ends_at_once_though_it_has_gone_silent(
    tmp_path: Path,
) -> None:
    with s3_server(tmp_path) as place:
        async with trial_weights.world(tmp_path, place, weights_bytes=12 * 2**20) as world:
            outcome = await trial_weights.run_trial(world, [trial_weights.nothing], seed=5, for_good=False)
    assert outcome.faults == []
    assert (outcome.launches, outcome.served) == (2, 1)


def test_experiments_that_are_tests_are_there() -> None:
    for each in (name for names in AS_TESTS.values() for name in names):
        file, _, function = each.partition("::")
        assert f"def {function}" in (Path(__file__).parents[2] / file).read_text(), each
    assert not AS_TESTS.keys() & EXPERIMENTS.keys()
