"""Nodes that fail or lag are passed over, tried again by one request, and never more than half of them at a time."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.outliers import Reason, Seen
from tests.fakes.scheduler_questions import Asked
from tests.fakes.scheduler_world import World, told_node


def world(size: int = 4) -> World:
    made = World()
    made.tell_all(*(told_node(f"n{number}") for number in range(size)))
    return made


def names(*numbers: int) -> set[str]:
    return {f"n{number}" for number in numbers}


def lag(fleet: World, seconds: int) -> None:
    """The first node takes four times as long as the others."""
    for _ in range(seconds):
        fleet.now += 1
        for number in range(6):
            fleet.answers(f"n{number}", 10, first_byte_us=2_000_000 if number == 0 else 500_000)


def test_a_node_that_fails_five_times_in_a_row_gets_nothing_more() -> None:
    fleet = world()
    fleet.fails("n0", 4)
    assert set(fleet.picks()) == names(0, 1, 2, 3)
    fleet.fails("n0")
    assert set(fleet.picks()) == names(1, 2, 3)
    assert fleet.ejected == [Reason.FAILURES_IN_A_ROW]


def test_failures_told_by_several_gateways_add_up() -> None:
    fleet = world()
    for _ in range(5):
        fleet.fails("n0", 1)
    assert set(fleet.picks()) == names(1, 2, 3)


def test_a_node_that_fails_every_other_request_is_found_out() -> None:
    fleet = world()
    for _ in range(12):
        fleet.view.report("n0", Seen(1, 2, 2, 0))
    assert fleet.ejected == [Reason.ERROR_RATE]
    assert set(fleet.picks()) == names(1, 2, 3)


def test_a_node_three_times_as_slow_as_its_pool_is_passed_over() -> None:
    fleet = world(6)
    lag(fleet, seconds=29)
    assert fleet.ejected == []
    lag(fleet, seconds=3)
    assert fleet.ejected == [Reason.SLOW]
    assert set(fleet.picks()) == names(1, 2, 3, 4, 5)


def test_a_node_that_is_slow_because_it_is_busier_than_its_pool_is_left_alone() -> None:
    """It is not ill, and without it the others would be as busy."""
    fleet = world(6)
    fleet.tell(told_node("n0", current=900, beat=2))
    lag(fleet, seconds=120)
    assert fleet.ejected == []


def test_a_pool_that_is_slow_as_a_whole_loses_nobody() -> None:
    fleet = world(6)
    for _ in range(60):
        fleet.now += 1
        for number in range(6):
            fleet.answers(f"n{number}", 10, first_byte_us=20_000_000 + number)
    assert fleet.ejected == []


@pytest.mark.parametrize(("size", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (10, 5)])
def test_never_more_than_half_of_a_pool_is_ejected(size: int, most: int) -> None:
    fleet = world(size)
    for number in range(size):
        fleet.fails(f"n{number}", 20)
    assert fleet.view.ejected == most
    assert len(fleet.picks()) == size - most


def test_a_node_alone_in_its_region_or_with_its_model_stays_however_many_others_there_are() -> None:
    fleet = World()
    fleet.tell_all(
        *(told_node(f"n{number}") for number in range(8)),
        told_node("alone", region="eu-west"),
        told_node("special", models=("llama", "rare")),
    )
    fleet.fails("alone", 50)
    fleet.fails("special", 50)
    assert fleet.view.ejected == 0
    assert set(fleet.picks(Asked(region="eu-west"))) == {"alone"}
    assert set(fleet.picks(Asked(model="rare"))) == {"special"}


def test_after_its_time_one_request_tries_a_node_and_its_outcome_decides() -> None:
    fleet = world()
    fleet.fails("n0", 5)
    fleet.now += 29.9
    assert "n0" not in fleet.picks()
    fleet.now += 0.2
    assert fleet.picks()["n0"] == 1  # the trial
    assert "n0" not in fleet.picks()
    fleet.fails("n0")
    assert fleet.ejected == [Reason.FAILURES_IN_A_ROW, Reason.PROBE_FAILED]
    fleet.now += 59.9
    assert "n0" not in fleet.picks()
    fleet.now += 0.2
    assert fleet.picks()["n0"] == 1
    fleet.answers("n0")
    assert set(fleet.picks()) == names(0, 1, 2, 3)
    assert fleet.view.ejected == 0


def test_a_trial_whose_outcome_is_never_told_is_made_again() -> None:
    fleet = world()
    fleet.fails("n0", 5)
    fleet.now += 31
    assert fleet.picks()["n0"] == 1
    fleet.now += 59
    assert "n0" not in fleet.picks()
    fleet.now += 2
    assert fleet.picks()["n0"] == 1


def test_a_request_that_failed_before_is_not_used_for_a_trial() -> None:
    fleet = world()
    fleet.fails("n0", 5)
    fleet.now += 31
    assert "n0" not in fleet.picks(Asked(excluded_node_ids=("n1",)))
    assert "n0" not in fleet.picks(Asked(excluded_node_ids=("n2",)))
    assert fleet.picks()["n0"] == 1


def test_a_trial_goes_only_to_requests_that_the_node_may_serve() -> None:
    fleet = World()
    shared = [told_node(f"n{number}", models=("llama", "qwen")) for number in range(4)]
    fleet.tell_all(*shared, *(told_node(f"own{number}", org="org-a") for number in range(2)))
    fleet.fails("own0", 5)
    fleet.now += 31
    assert "own0" not in fleet.picks(Asked(org_id="org-b"))
    assert "own0" not in fleet.picks(Asked(org_id="org-a", model="qwen"))
    assert "own0" not in fleet.picks(Asked(org_id="org-a", region="us-east", excluded_node_ids=("x",)))
    assert fleet.picks(Asked(org_id="org-a"))["own0"] == 1


def test_what_ran_before_the_ejection_and_succeeds_after_it_restores_nobody() -> None:
    fleet = world()
    fleet.fails("n0", 5)
    fleet.answers("n0", 100)
    assert "n0" not in fleet.picks()
    fleet.now += 31
    fleet.answers("n0", 100)
    assert fleet.picks()["n0"] == 1


def test_an_ejected_node_still_serves_where_all_others_failed_the_request() -> None:
    fleet = world(2)
    fleet.fails("n0", 5)
    assert fleet.pick(Asked(excluded_node_ids=("n1",))).id == "n0"


def test_a_silent_node_that_is_heard_of_again_starts_with_a_clean_record() -> None:
    fleet = world()
    fleet.tell(told_node("n0", reachable=False, beat=2))
    fleet.fails("n0", 5)
    assert fleet.view.ejected == 1
    fleet.tell(told_node("n0", beat=3))
    assert fleet.view.ejected == 0
    assert set(fleet.picks()) == names(0, 1, 2, 3)


def test_a_node_that_changes_while_it_is_ejected_stays_so_and_one_that_leaves_is_forgotten() -> None:
    fleet = world()
    fleet.fails("n0", 5)
    fleet.tell(told_node("n0", models=("llama", "qwen"), beat=2))
    assert fleet.view.ejected == 1
    assert "n0" not in fleet.picks()
    fleet.now += 31
    assert fleet.pick(Asked(model="qwen")).id == "n0"
    fleet.view.apply(pb.WatchNodesResponse(removed_node_ids=["n0"]))
    assert fleet.view.ejected == 0
    fleet.tell(told_node("n0", beat=3))
    assert set(fleet.picks()) == names(0, 1, 2, 3)


def test_reports_of_nodes_that_are_not_there_are_nothing() -> None:
    fleet = world()
    fleet.fails("stranger", 500)
    assert fleet.ejected == []


class EjectionMachine(RuleBasedStateMachine):
    """Whatever gateways tell and nodes do, half of every pool serves and nothing is left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = World()
        self.beat = 1
        self.there: dict[str, pb.Node] = {}

    @rule(
        number=st.integers(0, 6),
        region=st.sampled_from(("us-east", "eu-west")),
        models=st.sampled_from((("llama",), ("llama", "qwen"))),
        reachable=st.booleans(),
    )
    def hears_of(self, number: int, region: str, models: tuple[str, ...], reachable: bool) -> None:
        self.beat += 1
        told = told_node(f"n{number}", region=region, models=models, reachable=reachable, beat=self.beat)
        self.there[told.id] = told
        self.fleet.tell(told)

    @rule(number=st.integers(0, 6))
    def loses(self, number: int) -> None:
        self.there.pop(f"n{number}", None)
        self.fleet.view.apply(pb.WatchNodesResponse(removed_node_ids=[f"n{number}"]))

    @rule(number=st.integers(0, 6), failures=st.integers(1, 9))
    def fails(self, number: int, failures: int) -> None:
        before = {name for name in self.there if self.is_ejected(name)}
        self.fleet.fails(f"n{number}", failures)
        for model, region in itertools.product(("llama", "qwen"), ("us-east", "eu-west")):
            pool = {
                name
                for name, told in self.there.items()
                if told.reachable and model in told.facts.models and told.facts.region == region
            }
            now_out = {name for name in pool if self.is_ejected(name)}
            assert now_out <= before or 2 * len(now_out) <= len(pool)

    @rule(number=st.integers(0, 6))
    def answers(self, number: int) -> None:
        self.fleet.answers(f"n{number}")

    @rule(seconds=st.sampled_from((1.0, 31.0, 400.0)))
    def waits(self, seconds: float) -> None:
        self.fleet.now += seconds

    @invariant()
    def everybody_is_served(self) -> None:
        for model, region in itertools.product(("llama", "qwen"), ("", "us-east", "eu-west")):
            wanted = {
                name
                for name, told in self.there.items()
                if model in told.facts.models and region in ("", told.facts.region)
            }
            if wanted:
                assert self.fleet.pick(Asked(model=model, region=region)).id in wanted

    def is_ejected(self, name: str) -> bool:
        return name in self.fleet.view._ejections._nodes

    def teardown(self) -> None:
        self.fleet.tell_all()
        ejections = self.fleet.view._ejections
        assert (len(self.fleet.view._index), len(ejections), len(ejections._records)) == (0, 0, 0)
        assert not ejections._half_open


EjectionMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestEjections = EjectionMachine.TestCase
