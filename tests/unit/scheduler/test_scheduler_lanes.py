"""Lanes: how many requests fit, who may send them, and what reserved capacity keeps for its owner."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic_scheduler.domain import NodeState
from crosslogic_scheduler.lanes.lanes import Gateway, Lanes
from crosslogic_scheduler.lanes.shares import Capacity, Use, serverless_slots, share
from crosslogic_scheduler.lanes.slots import Report, Slots
from crosslogic_scheduler.lanes.stream import answer

CALM = Report(8, 0, 0.5)


# What a node runs at once


def test_a_node_that_never_had_a_queue_is_given_all_that_comes() -> None:
    slots = Slots()
    for running in (0, 10, 200):
        slots.take(Report(running, 0, 0.3))
    assert slots.known is None


def test_a_node_with_a_queue_runs_what_it_runs() -> None:
    slots = Slots()
    slots.take(Report(8, 40, 0.3))
    assert slots.known == 8


def test_a_few_new_arrivals_are_no_queue_unless_they_are_there_again() -> None:
    slots = Slots()
    slots.take(Report(100, 90, 0.3))
    assert slots.known is None
    slots.take(Report(100, 0, 0.3))
    slots.take(Report(100, 1, 0.3))
    slots.take(Report(90, 1, 0.3))
    assert slots.known == 90


def test_a_slow_engine_with_one_request_waiting_now_and_then_is_not_taken_for_one_that_runs_one() -> None:
    slots = Slots()
    for _ in range(10):
        slots.take(Report(1, 1, 0.1))
    assert slots.known == 16


def test_a_full_kv_cache_is_as_good_as_a_queue() -> None:
    slots = Slots()
    slots.take(Report(32, 0, 0.97))
    assert slots.known == 32


def test_a_node_never_counts_for_more_than_its_engine_was_started_with() -> None:
    slots = Slots(8)
    assert slots.known == 8
    for _ in range(50):
        slots.take(CALM)
    assert slots.known == 8
    slots.take(Report(5, 16, 0.99))
    assert slots.known == 5


def test_a_busy_node_without_a_queue_is_tried_with_more_ever_less_often() -> None:
    slots = Slots()
    slots.take(Report(8, 40, 0.3))
    tries: list[int] = []
    was = 8.0
    for number in range(200):
        known = slots.known
        assert known is not None
        if known > 8 and was == 8:
            tries.append(number)
        was = known
        slots.take(Report(min(int(known), 8), 2 if known > 8 else 0, 0.3))
    assert 3 <= len(tries) <= 8
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)


def test_a_node_whose_first_queue_was_one_of_long_prompts_is_filled_again_within_a_minute() -> None:
    slots = Slots()
    slots.take(Report(10, 40, 0.3))
    for _ in range(12):
        known = slots.known
        assert known is not None
        slots.take(Report(int(known), 0, 0.3))
    assert slots.known is not None
    assert slots.known > 100


def test_an_idle_node_is_not_tried_with_more() -> None:
    slots = Slots()
    slots.take(Report(8, 40, 0.3))
    for _ in range(100):
        slots.take(Report(2, 0, 0.1))
    assert slots.known == 8


# Who may send how much

CAPACITY = Capacity(slots=20, tokens_per_s=2000)


def test_reserved_capacity_that_nobody_uses_is_lent_as_far_as_it_comes_back_within_a_second() -> None:
    reserved = {"a": 1000}
    assert serverless_slots(CAPACITY, [Use(reservations=reserved)]) == 8, "nothing ends: nothing would come back"
    assert serverless_slots(CAPACITY, [Use(ended_per_s=8, reservations=reserved)]) == 12
    assert serverless_slots(CAPACITY, [Use(ended_per_s=500, reservations=reserved)]) == 18
    assert serverless_slots(CAPACITY, [Use(ended_per_s=500, reserved_in_flight=10, reservations=reserved)]) == 8


def test_an_organisation_at_two_gateways_has_its_reservation_once() -> None:
    uses = [Use(reservations={"a": 500}), Use(reservations={"a": 500, "b": 500})]
    assert serverless_slots(CAPACITY, uses) == 8


def test_a_burst_beyond_the_reserved_places_is_taken_from_the_others() -> None:
    assert serverless_slots(CAPACITY, [Use(reserved_in_flight=15, reservations={"a": 500})]) == 3


def test_the_gateway_with_the_longer_queue_gets_more_of_what_is_free() -> None:
    long, short = Use(in_flight=5, waiting=30), Use(in_flight=5, waiting=2)
    assert share(20, long, [short]) == 14
    assert share(20, short, [long]) == 5


def test_what_is_too_much_goes_down_in_proportion() -> None:
    assert (share(10, Use(in_flight=30), [Use(in_flight=10)]), share(10, Use(in_flight=10), [Use(in_flight=30)])) == (
        7,
        2,
    )


@given(
    st.integers(1, 500),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=12),
)
def test_gateways_together_never_get_more_than_there_is_but_for_one_each(
    slots: int, told: list[tuple[int, int]]
) -> None:
    uses = [Use(in_flight=in_flight, waiting=waiting) for in_flight, waiting in told]
    shares = [share(slots, use, [*uses[:number], *uses[number + 1 :]]) for number, use in enumerate(uses)]
    assert sum(shares) <= slots + len(uses)
    assert all(one >= 1 for one in shares)


# The stream


def node(
    node_id: str,
    *,
    running: int = 0,
    waiting: int = 0,
    org_id: str = "",
    region: str = "us-east",
    max_sequences: int = 0,
) -> registry_pb.Node:
    made = registry_pb.Node(
        id=node_id,
        org_id=org_id,
        status=registry_pb.NODE_STATUS_ACTIVE,
        reachable=True,
        facts=registry_pb.NodeFacts(region=region, models=["m"], max_tokens_per_sec=1000, max_sequences=max_sequences),
        load=registry_pb.NodeLoad(running=running, waiting=waiting),
    )
    made.last_heartbeat_time.FromNanoseconds(1 + running + 1000 * waiting)
    return made


class World:
    def __init__(self, *nodes: registry_pb.Node) -> None:
        self.at = 0.0
        self.lanes = Lanes(code_of=lambda region: region, now=lambda: self.at, sample=random.sample)
        self.lanes.apply(registry_pb.WatchNodesResponse(nodes=nodes, snapshot_start=True, snapshot_complete=True))

    def ask(self, gateway: Gateway, *, in_flight: int = 0, waiting: int = 0, org_id: str = "") -> pb.LaneShare:
        self.at += 1.0
        told = pb.LaneUse(model="m", region="us-east", org_id=org_id, in_flight=in_flight, waiting=waiting)
        (given_share,) = answer(self.lanes, gateway, pb.LaneStreamRequest(uses=[told])).shares
        return given_share


def test_there_is_no_limit_until_every_node_has_said_what_it_runs() -> None:
    world = World(node("1", max_sequences=8), node("2"))
    gateway = world.lanes.join()
    assert not world.ask(gateway, in_flight=500).HasField("limit")
    world.lanes.apply(registry_pb.WatchNodesResponse(nodes=[node("2", running=16, waiting=30)]))
    assert world.ask(gateway, in_flight=500).limit == 21


def test_what_a_dead_gateway_had_is_free_for_the_others() -> None:
    world = World(node("1", max_sequences=10))
    dead, alive = world.lanes.join(), world.lanes.join()
    world.ask(dead, in_flight=10, waiting=5)
    assert world.ask(alive, waiting=5).limit == 1
    world.lanes.leave(dead)
    assert world.ask(alive, waiting=5).limit == 9


def test_a_node_that_goes_takes_its_places_with_it() -> None:
    world = World(node("1", max_sequences=10), node("2", max_sequences=10))
    gateway = world.lanes.join()
    assert world.ask(gateway, waiting=50).limit == 18
    world.lanes.apply(registry_pb.WatchNodesResponse(removed_node_ids=["2"]))
    assert world.ask(gateway, waiting=50).limit == 9


def test_nodes_of_one_organisation_are_no_room_for_others_and_a_lane_of_their_own() -> None:
    world = World(node("1", max_sequences=10), node("2", max_sequences=90, org_id="acme"))
    gateway = world.lanes.join()
    given_share = world.ask(gateway, waiting=500)
    assert (given_share.limit, list(given_share.dedicated_org_ids)) == (9, ["acme"])
    assert world.ask(gateway, waiting=500, org_id="acme").limit == 81


def test_requests_for_anywhere_leave_less_for_those_of_one_region() -> None:
    world = World(node("1", max_sequences=10), node("2", max_sequences=10, region="eu"))
    one, other = world.lanes.join(), world.lanes.join()
    anywhere = pb.LaneUse(model="m", in_flight=10)
    (given_share,) = answer(world.lanes, other, pb.LaneStreamRequest(uses=[anywhere])).shares
    assert given_share.limit == 18
    assert world.ask(one, waiting=50).limit == 4


def test_a_gateway_that_leaves_a_lane_out_uses_it_no_more() -> None:
    world = World(node("1", max_sequences=10))
    one, other = world.lanes.join(), world.lanes.join()
    world.ask(one, in_flight=10)
    answer(world.lanes, one, pb.LaneStreamRequest())
    assert world.ask(other, waiting=10).limit == 9
    assert len(world.lanes) == 2


def state(node_id: str) -> NodeState:
    return NodeState(node_id, "a:1", "us-east", "", frozenset({"m"}), True, 1000.0)


def told(world: World, gateway: Gateway, **in_flight: int) -> None:
    nodes = [pb.NodeUse(node_id=node_id[1:], in_flight=count) for node_id, count in in_flight.items()]
    answer(world.lanes, gateway, pb.LaneStreamRequest(nodes=nodes))


def test_a_reserved_request_goes_where_most_places_are_free_whoever_filled_the_others() -> None:
    world = World(node("1", max_sequences=10), node("2", max_sequences=20))
    one, other = world.lanes.join(), world.lanes.join()
    nodes = [state("1"), state("2")]
    told(world, one, n1=2, n2=8)
    told(world, other, n2=2)
    chosen = world.lanes.roomiest(nodes, ())
    assert chosen is not None
    assert chosen.id == "1", "8 of 10 are free, and 10 of 20"
    told(world, one, n1=9, n2=8)
    chosen = world.lanes.roomiest(nodes, ())
    assert chosen is not None
    assert chosen.id == "2"
    chosen = world.lanes.roomiest(nodes, ("2",))
    assert chosen is not None
    assert chosen.id == "1"
    world.lanes.leave(one)
    world.at += 1.0
    picks = [world.lanes.roomiest(nodes, ()) for _ in range(6)]
    assert [each.id for each in picks if each is not None] == ["1", "1", "2", "2", "1", "2"], "each pick takes a place"


def test_a_node_whose_places_are_taken_is_spared_while_another_has_one_whatever_its_last_heartbeat_said() -> None:
    world = World(node("1", max_sequences=4), node("2", max_sequences=4))
    gateway = world.lanes.join()
    one, other = state("1"), state("2")
    told(world, gateway, n1=3)
    assert world.lanes.unless_full(one, [one, other], ()) is one
    assert world.lanes.unless_full(one, [one, other], ()) is other, "the fourth place is taken by the pick before"
    told(world, gateway, n1=4, n2=4)
    world.at += 1.0
    assert world.lanes.unless_full(one, [one, other], ("2",)) is one, "where all is full it stays as it was chosen"


def test_a_pick_that_never_became_a_request_takes_no_place_for_long() -> None:
    world = World(node("1", max_sequences=1), node("2", max_sequences=1))
    one, other = state("1"), state("2")
    assert world.lanes.unless_full(one, [one, other], ()) is one
    assert world.lanes.unless_full(one, [one, other], ()) is other
    world.at += 1.0
    assert world.lanes.unless_full(one, [one, other], ()) is one


def test_where_no_node_has_said_what_it_runs_the_usual_strategy_decides() -> None:
    world = World(node("1"), node("2"))
    assert world.lanes.roomiest([state("1"), state("2")], ()) is None
