"""Each strategy's promise, and what deployments and sessions choose."""

import random
from collections import Counter
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.prefix_blocks import BLOCK_ENDS
from crosslogic_scheduler.domain import NodeState
from crosslogic_scheduler.prefixes import MAX_HOLDERS, PrefixIndex
from crosslogic_scheduler.ring import HashRing
from tests.fakes.scheduler_questions import Asked
from tests.fakes.scheduler_world import World, told_node


def world(size: int, strategy: pb.PickStrategy.ValueType = pb.PICK_STRATEGY_UNSPECIFIED) -> World:
    made = World()
    made.catalogue(pb.Deployment(strategy=strategy))
    made.tell_all(*(told_node(f"n{number}") for number in range(size)))
    return made


def keys(count: int) -> list[int]:
    draw = random.Random(9)
    return [draw.getrandbits(64) or 1 for _ in range(count)]


def blocks(*prompt: str) -> tuple[int, ...]:
    """Hashes as a gateway makes them: each stands for all before it."""
    return tuple(
        int.from_bytes(blake2b("\0".join(prompt[: number + 1]).encode(), digest_size=8).digest(), "little")
        for number in range(len(prompt))
    )


def homes(made: World, sessions: list[int]) -> dict[int, str]:
    return {key: made.pick(Asked(session_key=key)).id for key in sessions}


# Deployments


def test_a_deployments_strategy_holds_in_its_region_and_no_other() -> None:
    made = World()
    made.tell_all(*(told_node(f"n{number}") for number in range(4)))
    made.catalogue(
        pb.Deployment(region="us-east", strategy=pb.PICK_STRATEGY_ROUND_ROBIN),
        pb.Deployment(strategy=pb.PICK_STRATEGY_LEAST_CONNECTIONS),
    )
    turns = [made.pick(Asked(region="us-east")).id for _ in range(8)]
    assert turns[:4] == turns[4:]
    assert len(set(turns)) == 4
    made.tell(
        told_node("n0", running=5, beat=2), told_node("n1", running=5, beat=2), told_node("n2", running=5, beat=2)
    )
    assert set(made.picks(Asked(), count=20)) == {"n3"}
    # The catalogue no longer says so: least load again.
    made.catalogue()
    made.tell(
        told_node("n0", current=900, beat=3), told_node("n1", current=100, beat=3), told_node("n2", current=900, beat=3)
    )
    assert "n0" not in made.picks(Asked(region="us-east"))


def test_a_strategy_of_a_newer_contract_counts_as_the_default() -> None:
    made = World()
    made.catalogue(pb.Deployment(strategy=77))  # type: ignore[arg-type]
    made.tell_all(told_node("busy", current=900), told_node("free"))
    assert set(made.picks()) == {"free"}


# Least load


def test_prompts_that_are_being_read_spread_as_much_as_answers_do() -> None:
    made = world(4)
    long = Asked(prompt_tokens=80_000)
    assert len({made.pick(long).id for _ in range(4)}) == 4
    # Ten seconds later all of them are read.
    made.now += 10
    for number in range(4):
        made.tell(told_node(f"n{number}", current=400 if number else 0, beat=2))
    assert made.pick().id == "n0"


def test_what_waits_to_be_read_is_forgotten_when_a_node_says_that_it_has_nothing_to_do() -> None:
    made = world(2)
    for _ in range(50):
        made.pick(Asked(prompt_tokens=100_000, excluded_node_ids=("n1",)))
    made.tell(told_node("n1", current=900, beat=2))
    assert made.pick().id == "n1"
    made.tell(told_node("n0", beat=2))
    assert made.pick().id == "n0"


def test_requests_that_ended_do_not_fill_a_node_until_its_next_heartbeat() -> None:
    made = world(2)
    for _ in range(40):
        made.pick(keep=True)
    assert made.pick(keep=True).load > 1
    for name in ("n0", "n1"):
        made.answers(name, 20)
    assert made.pick(keep=True).load == pytest.approx(0.05)
    # What a heartbeat said is not taken back by the ends of what ran before it.
    made.tell(told_node("n0", current=600, running=12, beat=2))
    made.answers("n0", 100)
    made.tell(told_node("n1", current=900, beat=2))
    assert made.pick().load == pytest.approx(0.6)


def test_a_short_answer_counts_for_as_little_as_it_takes() -> None:
    made = world(1)
    # 50 tokens a second and a heartbeat every 5 s: an answer of 25 tokens takes a tenth of that time.
    for tokens, load in ((25, 0.005), (250, 0.055), (10_000, 0.105)):
        assert made.pick(Asked(estimated_tokens=100 + tokens, prompt_tokens=100), keep=True).load == pytest.approx(load)
    assert made.pick(Asked(estimated_tokens=100, prompt_tokens=100), keep=True).load == pytest.approx(0.155)


# Round robin


@pytest.mark.parametrize("size", [1, 2, 9, 30])
def test_round_robin_gives_each_node_its_turn(size: int) -> None:
    made = world(size, pb.PICK_STRATEGY_ROUND_ROBIN)
    counts = made.picks(count=10 * size)
    assert set(counts.values()) == {10}
    assert len(counts) == size


def test_round_robin_goes_on_past_nodes_that_failed_the_request() -> None:
    made = world(4, pb.PICK_STRATEGY_ROUND_ROBIN)
    assert set(made.picks(Asked(excluded_node_ids=("n1", "n3")))) == {"n0", "n2"}


# Least connections


def test_least_connections_counts_requests_between_heartbeats() -> None:
    made = world(5, pb.PICK_STRATEGY_LEAST_CONNECTIONS)
    counts = Counter(made.pick(keep=True).id for _ in range(100))
    assert set(counts.values()) == {20}


def test_least_connections_prefers_the_idle_node_of_a_large_fleet() -> None:
    made = World()
    made.catalogue(pb.Deployment(strategy=pb.PICK_STRATEGY_LEAST_CONNECTIONS))
    made.tell_all(*(told_node(f"n{number}", running=0 if number < 10 else 50) for number in range(20)))
    counts = made.picks(count=400)
    idle = sum(counts[f"n{number}"] for number in range(10))
    # Of two drawn at random, one is idle three times of four.
    assert idle > 0.65 * 400


# Least latency


def test_least_latency_prefers_nodes_that_answer_sooner_without_burying_one() -> None:
    made = world(4, pb.PICK_STRATEGY_LEAST_LATENCY)
    for number in range(4):
        made.answers(f"n{number}", 10, first_byte_us=50_000 if number == 0 else 100_000)
    counts = Counter(made.pick(keep=True).id for _ in range(100))
    assert counts["n0"] == pytest.approx(40, abs=2)
    assert all(counts[f"n{number}"] == pytest.approx(20, abs=2) for number in (1, 2, 3))


def test_a_node_of_unknown_latency_gets_its_chance_and_not_everything() -> None:
    made = world(4, pb.PICK_STRATEGY_LEAST_LATENCY)
    for number in range(3):
        made.answers(f"n{number}", 10)
    counts = Counter(made.pick(keep=True).id for _ in range(100))
    assert 15 <= counts["n3"] <= 35


# Sessions


@pytest.mark.parametrize("size", [1, 2, 8, 50])
def test_a_session_stays_on_its_node_whatever_the_strategy(size: int) -> None:
    made = world(size, pb.PICK_STRATEGY_ROUND_ROBIN)
    sessions = keys(100)
    assert homes(made, sessions) == homes(made, sessions)
    assert len(set(homes(made, sessions).values())) >= min(size, 2)


def test_a_lost_node_moves_its_own_sessions_only_and_its_return_brings_them_back() -> None:
    made = world(10)
    sessions = keys(1000)
    before = homes(made, sessions)
    made.view.apply(pb.WatchNodesResponse(removed_node_ids=["n3"]))
    after = homes(made, sessions)
    moved = {key for key in sessions if before[key] != after[key]}
    assert moved == {key for key in sessions if before[key] == "n3"}
    assert len(moved) < 200
    # They spread over the others rather than falling on one neighbour.
    assert len({after[key] for key in moved}) >= 5
    made.tell(told_node("n3", beat=2))
    assert homes(made, sessions) == before


def test_two_schedulers_know_the_same_home_whatever_order_they_heard_of_nodes_in() -> None:
    one = world(10)
    other = World()
    for number in reversed(range(10)):
        other.tell(told_node(f"n{number}"))
        other.pick(Asked(session_key=1))
    sessions = keys(200)
    assert homes(one, sessions) == homes(other, sessions)


def test_a_full_node_passes_a_session_on_to_the_same_neighbour_each_time() -> None:
    made = world(6)
    session = keys(1)[0]
    home = made.pick(Asked(session_key=session)).id
    made.tell(told_node(home, current=1500, beat=2))
    neighbours = {made.pick(Asked(session_key=session)).id for _ in range(20)}
    assert len(neighbours) == 1
    assert home not in neighbours
    made.tell(told_node(home, current=100, beat=3))
    assert made.pick(Asked(session_key=session)).id == home


def test_where_all_nodes_are_full_a_session_takes_the_least_full_that_it_looks_at() -> None:
    made = World()
    made.tell_all(*(told_node(f"n{number}", current=2000 - number) for number in range(4)))
    assert {made.pick(Asked(session_key=key)).id for key in keys(20)} == {"n3"}


def test_a_session_whose_node_failed_the_request_is_served_elsewhere() -> None:
    made = world(3)
    session = keys(1)[0]
    home = made.pick(Asked(session_key=session)).id
    assert made.pick(Asked(session_key=session, excluded_node_ids=(home,))).id != home


def ring_node(number: int) -> NodeState:
    return NodeState(f"n{number}", "", "", "", frozenset(), reachable=True, capacity=1.0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=30))
def test_a_ring_that_was_changed_is_the_ring_made_anew(changes: list[tuple[bool, int]]) -> None:
    nodes = {number: ring_node(number) for number in range(8)}
    there: set[int] = set()
    ring = HashRing(())
    for add, number in changes:
        if add and number not in there:
            ring.add(nodes[number])
            there.add(number)
        elif not add and number in there:
            ring.remove(nodes[number])
            there.remove(number)
    fresh = HashRing(nodes[number] for number in there)
    for key in (0, 2**63, 2**64 - 1):
        assert [node.id for node in ring.from_key(key)] == [node.id for node in fresh.from_key(key)]
        assert len(list(ring.from_key(key))) == len(there)


# Prefixes


def test_requests_that_share_a_long_prefix_go_where_it_was_read() -> None:
    made = world(20, pb.PICK_STRATEGY_PREFIX_AFFINITY)
    prompt = blocks(*"system prompt")
    first = made.pick(Asked(prefix_hashes=prompt)).id
    assert {made.pick(Asked(prefix_hashes=prompt)).id for _ in range(30)} == {first}
    longer = blocks(*"system prompt", *"a turn")
    assert made.pick(Asked(prefix_hashes=longer)).id == first


def test_prompts_that_nobody_has_read_spread_by_load() -> None:
    made = world(8, pb.PICK_STRATEGY_PREFIX_AFFINITY)
    counts = Counter(
        made.pick(Asked(prefix_hashes=blocks(f"prompt {number}", "x")), keep=True).id for number in range(80)
    )
    assert set(counts.values()) == {10}


def test_a_popular_prefix_spreads_before_its_node_is_buried() -> None:
    made = world(8, pb.PICK_STRATEGY_PREFIX_AFFINITY)
    prompt = blocks(*"popular")
    counts = Counter(made.pick(Asked(prefix_hashes=prompt), keep=True).id for _ in range(120))
    assert len(counts) >= 6
    # 20 streams fill a node.
    assert max(counts.values()) <= 22


def test_a_prefix_is_not_followed_to_a_node_that_failed_the_request_or_may_not_serve_it() -> None:
    made = world(4, pb.PICK_STRATEGY_PREFIX_AFFINITY)
    prompt = blocks(*"prompt")
    holder = made.pick(Asked(prefix_hashes=prompt)).id
    assert made.pick(Asked(prefix_hashes=prompt, excluded_node_ids=(holder,))).id != holder
    made.tell(told_node("own", org="org-a"))
    made.pick(Asked(prefix_hashes=blocks(*"secret"), org_id="org-a"))
    assert "own" not in made.picks(Asked(prefix_hashes=blocks(*"secret"), org_id="org-b"))


def test_a_long_match_outweighs_a_little_load_and_a_short_one_does_not() -> None:
    prompt = tuple(range(1, len(BLOCK_ENDS) + 1))
    made = world(2, pb.PICK_STRATEGY_PREFIX_AFFINITY)
    holder = made.pick(Asked(prefix_hashes=prompt)).id
    made.tell(told_node(holder, current=500, beat=2))
    assert made.pick(Asked(prefix_hashes=prompt)).id == holder
    other = "n1" if holder == "n0" else "n0"
    brief = prompt[:2]
    assert made.pick(Asked(prefix_hashes=brief)).id == other


def test_remembered_blocks_are_bounded_and_the_least_used_leave() -> None:
    index = PrefixIndex(max_blocks=100)
    index.note([1, 2, 3], "kept")
    for number in range(1000):
        index.note([1_000 + number], "other")
        index.note([1, 2, 3], "kept")
    assert len(index) == 100
    assert list(index.longest([1, 2, 3])) == [("kept", 3), ("kept", 2), ("kept", 1)]
    for number in range(20):
        index.note([1], f"n{number}")
    holders = [node_id for node_id, _ in index.longest([1])]
    assert holders == [f"n{number}" for number in (19, 18, 17, 16)]
    assert len(holders) == MAX_HOLDERS


# What is not the first choice


def test_a_node_that_its_cloud_may_take_is_spared_while_others_have_room() -> None:
    made = World()
    made.tell_all(told_node("risky", notice=pb.SPOT_NOTICE_KIND_RISK), told_node("safe"))
    assert set(made.picks()) == {"safe"}
    made.tell(told_node("safe", current=1500, beat=2))
    assert set(made.picks()) == {"risky"}


def test_an_unwell_node_is_spared_while_others_have_room() -> None:
    made = World()
    made.tell_all(told_node("unwell", health=39), told_node("well", health=40))
    assert set(made.picks()) == {"well"}
    made.tell(told_node("well", health=100, current=1500, beat=2))
    assert set(made.picks()) == {"unwell"}
    made.tell(told_node("unwell", health=90, beat=3), told_node("well", health=100, beat=3))
    assert set(made.picks()) == {"unwell", "well"}


def test_a_node_that_its_cloud_takes_gets_nothing_even_before_it_drains() -> None:
    made = World()
    made.tell_all(told_node("going", notice=pb.SPOT_NOTICE_KIND_TERMINATION), told_node("safe", current=5000))
    assert set(made.picks()) == {"safe"}


def test_few_nodes_left_are_not_buried_while_most_are_silent() -> None:
    """60 % silent at once: likelier a cut than 60 % dead at once (docs: chaos 7)."""
    made = World()
    made.tell_all(*(told_node(f"n{number}", reachable=number < 4) for number in range(10)))
    heard = {f"n{number}" for number in range(4)}
    counts = Counter(made.pick(keep=True).id for _ in range(60))
    assert set(counts) == heard  # while these have room
    counts = Counter(made.pick(keep=True).id for _ in range(140))
    # 200 requests fill ten nodes of 20 streams; four nodes alone would stand at two and a half times what they can do.
    assert set(counts) > heard
    assert max(node.load for node in made.view._nodes.values()) <= 1.3


def test_while_most_are_heard_of_silent_nodes_get_nothing_however_full_the_others_are() -> None:
    made = World()
    made.tell_all(*(told_node(f"n{number}", reachable=number < 6, current=3000) for number in range(10)))
    assert set(made.picks(count=200)) <= {f"n{number}" for number in range(6)}


def test_silent_nodes_that_gateways_found_dead_relieve_nobody() -> None:
    made = World()
    made.tell_all(
        *(told_node(f"n{number}", reachable=number < 2, current=3000 if number < 2 else 0) for number in range(5))
    )
    for number in (2, 3):
        made.fails(f"n{number}", 5)
    assert set(made.picks(count=60)) <= {"n0", "n1", "n4"}


@pytest.mark.parametrize("strategy", [each for each in pb.PickStrategy.values() if each])
def test_a_node_that_is_not_well_gets_less_and_never_nothing(strategy: pb.PickStrategy.ValueType) -> None:
    made = World()
    made.tell_all(*(told_node(f"well-{number}") for number in range(3)), told_node("ailing", health=60))
    made.catalogue(pb.Deployment(strategy=strategy))
    picked: Counter[str] = Counter()
    for beat in range(2, 62):
        for _ in range(20):
            picked[made.pick(keep=True).id] += 1
        made.tell_all(
            *(told_node(f"well-{number}", beat=beat) for number in range(3)), told_node("ailing", health=60, beat=beat)
        )
    assert 0 < picked["ailing"] < 0.9 * min(picked[f"well-{number}"] for number in range(3))


def test_a_node_whose_health_the_registry_does_not_tell_counts_as_well() -> None:
    made = World()
    made.tell_all(told_node("told"), told_node("untold", health=0))
    assert min(made.picks(count=200).values()) > 60
