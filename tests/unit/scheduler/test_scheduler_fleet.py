"""The scheduler's view of the fleet: what requests may get, as nodes come, change, fall silent and go."""

import itertools
import random
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.regions import default_regions
from crosslogic_scheduler.domain import NodeState
from crosslogic_scheduler.fleet import FleetView
from tests.fakes.scheduler_questions import Asked

MODELS = ("llama", "qwen", "mistral")
REGIONS = ("us-east", "eu-west")
ORGS = ("", "org-a", "org-b")


def node(
    number: int,
    *,
    org: str = "",
    region: str = "us-east",
    models: tuple[str, ...] = ("llama",),
    status: pb.NodeStatus.ValueType = pb.NODE_STATUS_ACTIVE,
    reachable: bool = True,
    current: float = 0.0,
    beat: int = 1,
) -> pb.Node:
    made = pb.Node(
        id=f"node-{number}",
        org_id=org,
        status=status,
        reachable=reachable,
        facts=pb.NodeFacts(
            address=f"10.0.0.{number}:7300",
            region=region,
            models=models,
            max_tokens_per_sec=1000,
            decode_tokens_per_sec=50,
        ),
        load=pb.NodeLoad(current_tokens_per_sec=current),
    )
    made.last_heartbeat_time.FromSeconds(beat)
    return made


def snapshot(*nodes: pb.Node) -> pb.WatchNodesResponse:
    return pb.WatchNodesResponse(nodes=nodes, snapshot_start=True, snapshot_complete=True)


def new_view() -> FleetView:
    return FleetView(draw=random.Random(5).random, now=lambda: 0.0, regions=default_regions())


def pick(view: FleetView, model: str, org_id: str, region: str, excluded: Collection[str]) -> NodeState:
    return view.pick(Asked(model, org_id, region, excluded))[0]


def view_of(*nodes: pb.Node) -> FleetView:
    view = new_view()
    view.apply(snapshot(*nodes))
    return view


def picks(view: FleetView, *, org: str = "", region: str = "", model: str = "llama") -> set[str]:
    """Everything that such a request may get."""
    found = set()
    for _ in range(60):
        picked = pick(view, model, org, region, ())
        picked.load -= picked.step
        found.add(picked.id)
    return found


def refusal(view: FleetView, org: str = "", region: str = "", model: str = "llama") -> ErrorCode:
    with pytest.raises(CodedError) as caught:
        pick(view, model, org, region, ())
    return caught.value.code


def test_before_the_fleet_is_known_nobody_is_told_that_there_is_no_capacity() -> None:
    view = new_view()
    assert refusal(view) is ErrorCode.UNAVAILABLE
    view.apply(pb.WatchNodesResponse(nodes=[node(1)], snapshot_start=True))
    assert refusal(view) is ErrorCode.UNAVAILABLE
    view.apply(pb.WatchNodesResponse(nodes=[node(2)], snapshot_complete=True))
    assert picks(view) == {"node-1", "node-2"}


def test_an_organisations_own_nodes_serve_it_first_and_nobody_else_ever() -> None:
    view = view_of(node(1), node(2, org="org-a"))
    assert picks(view, org="org-a") == {"node-2"}
    assert picks(view, org="org-b") == {"node-1"}
    assert picks(view, org="") == {"node-1"}
    view.apply(pb.WatchNodesResponse(removed_node_ids=["node-1"]))
    assert refusal(view, org="org-b") is ErrorCode.NO_CAPACITY
    assert refusal(view, org="") is ErrorCode.NO_CAPACITY


def test_an_organisation_whose_own_node_failed_the_request_is_served_by_a_shared_one() -> None:
    view = view_of(node(1), node(2, org="org-a"))
    assert pick(view, "llama", "org-a", "", ("node-2",)).id == "node-1"


def test_a_request_bound_to_a_region_never_leaves_it() -> None:
    view = view_of(node(1), node(2, region="eu-west"))
    assert picks(view, region="eu-west") == {"node-2"}
    assert picks(view) == {"node-1", "node-2"}
    assert refusal(view, region="ap-south") is ErrorCode.NO_CAPACITY


@pytest.mark.parametrize(
    "status", [pb.NODE_STATUS_REGISTERING, pb.NODE_STATUS_WARMING, pb.NODE_STATUS_DRAINING, pb.NODE_STATUS_DEAD]
)
def test_only_active_nodes_get_requests(status: pb.NodeStatus.ValueType) -> None:
    view = view_of(node(1), node(2))
    view.apply(pb.WatchNodesResponse(nodes=[node(1, status=status, beat=2)]))
    assert picks(view) == {"node-2"}
    view.apply(pb.WatchNodesResponse(nodes=[node(1, beat=3)]))
    assert picks(view) == {"node-1", "node-2"}


def test_a_silent_node_is_passed_over_while_there_is_another_and_used_when_there_is_none() -> None:
    view = view_of(node(1, reachable=False), node(2))
    assert picks(view) == {"node-2"}
    view.apply(pb.WatchNodesResponse(nodes=[node(2, reachable=False)]))
    assert picks(view) == {"node-1", "node-2"}


def test_a_silent_own_node_waits_behind_reachable_shared_ones() -> None:
    view = view_of(node(1), node(2, org="org-a", reachable=False))
    assert picks(view, org="org-a") == {"node-1"}


def test_requests_between_heartbeats_spread_as_if_each_were_load() -> None:
    view = view_of(node(1), node(2), node(3), node(4))
    counts = {f"node-{number}": 0 for number in range(1, 5)}
    for _ in range(1000):
        counts[pick(view, "llama", "", "", ()).id] += 1
    assert set(counts.values()) == {250}


def test_a_heartbeat_replaces_what_was_assumed_and_other_news_of_the_node_does_not() -> None:
    view = view_of(node(1), node(2, current=500))
    assert [pick(view, "llama", "", "", ()).id for _ in range(5)] == ["node-1"] * 5
    # Something changed, but the node was not heard of: the five requests still count.
    view.apply(pb.WatchNodesResponse(nodes=[node(1, models=("llama", "qwen"))]))
    assert pick(view, "qwen", "", "", ()).load == pytest.approx(0.30)
    # It was heard of, and says that nothing runs.
    view.apply(pb.WatchNodesResponse(nodes=[node(1, models=("llama", "qwen"), beat=2)]))
    assert pick(view, "qwen", "", "", ()).load == pytest.approx(0.05)


def test_a_snapshot_after_a_reconnect_keeps_the_load_and_drops_only_nodes_that_are_gone() -> None:
    view = view_of(node(1), node(2), node(3))
    for _ in range(3):
        pick(view, "llama", "", "us-east", ("node-2", "node-3"))
    view.apply(pb.WatchNodesResponse(nodes=[node(1)], snapshot_start=True))
    assert len(view) == 3  # the snapshot broke off: nothing is dropped
    assert picks(view) == {"node-2", "node-3"}
    view.apply(snapshot(node(1), node(2)))
    assert len(view) == 2
    assert picks(view) == {"node-2"}
    assert pick(view, "llama", "", "", ("node-2",)).load == pytest.approx(0.20)


def test_a_node_that_moved_is_no_longer_found_where_it_was() -> None:
    view = view_of(node(1))
    view.apply(pb.WatchNodesResponse(nodes=[node(1, region="eu-west", models=("qwen",))]))
    assert refusal(view) is ErrorCode.NO_CAPACITY
    assert picks(view, region="eu-west", model="qwen") == {"node-1"}


@dataclass
class Expected:
    nodes: dict[str, pb.Node] = field(default_factory=dict)

    def candidates(self, model: str, org: str, region: str) -> set[str]:
        """Written from the words of the contract, over all nodes."""
        for reachable in (True, False):
            for owner in dict.fromkeys((org, "")):
                found = {
                    each.id
                    for each in self.nodes.values()
                    if each.status == pb.NODE_STATUS_ACTIVE
                    and each.reachable == reachable
                    and each.org_id == owner
                    and model in each.facts.models
                    and region in ("", each.facts.region)
                }
                if found:
                    return found
        return set()


class FleetMachine(RuleBasedStateMachine):
    """Any history of nodes leaves the index with exactly what a look at every node would find."""

    def __init__(self) -> None:
        super().__init__()
        self.view = view_of()
        self.expected = Expected()
        self.beat = 1

    @rule(
        number=st.integers(0, 5),
        org=st.sampled_from(ORGS),
        region=st.sampled_from(REGIONS),
        models=st.sets(st.sampled_from(MODELS)).map(tuple),
        status=st.sampled_from((pb.NODE_STATUS_ACTIVE, pb.NODE_STATUS_ACTIVE, pb.NODE_STATUS_DRAINING)),
        reachable=st.booleans(),
    )
    def hears_of(
        self,
        number: int,
        org: str,
        region: str,
        models: tuple[str, ...],
        status: pb.NodeStatus.ValueType,
        reachable: bool,
    ) -> None:
        self.beat += 1
        told = node(number, org=org, region=region, models=models, status=status, reachable=reachable, beat=self.beat)
        self.expected.nodes[told.id] = told
        self.view.apply(pb.WatchNodesResponse(nodes=[told]))

    @rule(number=st.integers(0, 5))
    def forgets(self, number: int) -> None:
        self.expected.nodes.pop(f"node-{number}", None)
        self.view.apply(pb.WatchNodesResponse(removed_node_ids=[f"node-{number}"]))

    @rule(kept=st.sets(st.integers(0, 5)))
    def starts_over(self, kept: set[int]) -> None:
        self.expected.nodes = {
            node_id: told for node_id, told in self.expected.nodes.items() if int(node_id[5:]) in kept
        }
        self.view.apply(snapshot(*self.expected.nodes.values()))

    @invariant()
    def picks_what_a_look_at_every_node_would(self) -> None:
        for model, org, region in itertools.product(MODELS, ORGS, ("", *REGIONS)):
            wanted = self.expected.candidates(model, org, region)
            if wanted:
                picked = pick(self.view, model, org, region, ())
                assert picked.id in wanted
                # Looking must fill no node: one that is full is relieved by others.
                picked.load -= picked.step
            else:
                assert refusal(self.view, org, region, model) is ErrorCode.NO_CAPACITY

    def teardown(self) -> None:
        self.view.apply(snapshot())
        assert len(self.view) == 0
        assert len(self.view._index) == 0


FleetMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestFleet = FleetMachine.TestCase
