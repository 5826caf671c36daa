"""The queue of a lane, with a clock of its own: who is next, and who is told at once that there is no hope."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.shedding.domain import Rank, queue_timeout_s, rank_of
from crosslogic_gateway.shedding.lag import LOOKS, LoopLag
from crosslogic_gateway.shedding.queue import LaneQueue, Waiter


def waiter(org: str, rank: Rank = Rank.NORMAL, *, cost: float = 100.0, deadline: float = 1e9) -> Waiter:
    return Waiter(org, rank, cost, deadline)


def full(limit: int = 1, mean_s: float = 1.0, **more: int) -> LaneQueue:
    queue = LaneQueue(**more)
    queue.limit, queue.in_flight, queue.mean_s = limit, limit, mean_s
    return queue


def served(queue: LaneQueue) -> list[Waiter]:
    """Everybody, one turn after the other."""
    order = []
    while len(queue):
        queue.in_flight -= 1
        order += queue.ready()
    return order


def test_one_request_of_another_tenant_is_next_before_a_thousand_of_one() -> None:
    queue = full()
    for _ in range(1000):
        assert queue.enter(waiter("crowd"), 0.0) == []
    queue.in_flight -= 1
    assert queue.ready()[0].org_id == "crowd"
    single = waiter("single")
    queue.enter(single, 0.0)
    queue.in_flight -= 1
    queue.in_flight -= 1
    queue.limit = 2
    assert single in queue.ready()


def test_two_tenants_with_queues_take_turns_whoever_came_first() -> None:
    queue = full()
    for org in ("a", "b"):
        for _ in range(50):
            queue.enter(waiter(org), 0.0)
    first = [each.org_id for each in served(queue)[:20]]
    assert abs(first.count("a") - first.count("b")) <= 2


def test_a_tenant_with_long_requests_gets_as_many_tokens_and_not_as_many_turns() -> None:
    queue = full()
    for _ in range(200):
        queue.enter(waiter("long", cost=1000), 0.0)
        queue.enter(waiter("short", cost=100), 0.0)
    first = [each.org_id for each in served(queue)[:110]]
    assert 8 <= first.count("long") <= 12


def test_higher_priority_goes_first_and_the_lowest_is_shed_first() -> None:
    queue = full(max_waiting=3)
    low, normal, high = waiter("a", Rank.LOW), waiter("a", Rank.NORMAL), waiter("a", Rank.HIGH)
    for each in (low, normal, high):
        assert queue.enter(each, 0.0) == []
    newcomer = waiter("b", Rank.NORMAL)
    assert queue.enter(newcomer, 0.0) == [low]
    assert queue.enter(late := waiter("c", Rank.LOW), 0.0) == [late]
    assert served(queue) == [high, normal, newcomer]


def test_a_full_queue_of_one_tenant_makes_room_for_another() -> None:
    queue = full(max_waiting=10)
    for _ in range(10):
        queue.enter(waiter("crowd"), 0.0)
    single = waiter("single")
    (refused,) = queue.enter(single, 0.0)
    assert refused.org_id == "crowd"
    assert list(queue.waiters())[1] is single


def test_who_would_be_late_is_refused_at_once() -> None:
    queue = full(limit=4, mean_s=2.0)
    for _ in range(10):
        assert queue.enter(waiter("a", deadline=5.5), 0.0) == []
    late = waiter("a", deadline=5.5)
    assert queue.enter(late, 0.0) == [late], "eleventh in a queue of which two a second are served"
    assert len(queue) == 10


def test_who_is_pushed_beyond_the_deadline_by_others_is_refused_then_and_not_when_it_is_late() -> None:
    queue = full(limit=1, mean_s=1.0)
    last = waiter("a", Rank.LOW, deadline=2.5)
    queue.enter(waiter("a", Rank.LOW, deadline=2.5), 0.0)
    queue.enter(last, 0.0)
    assert queue.enter(waiter("b", Rank.HIGH, deadline=2.5), 0.1) == [last]


def test_who_has_no_time_to_wait_is_not_kept_waiting() -> None:
    queue = full(mean_s=0.0)
    hurried = waiter("a", deadline=7.0)
    assert queue.enter(hurried, 7.0) == [hurried]


def test_before_any_request_has_ended_the_queue_is_no_longer_than_a_guess_allows() -> None:
    queue = full(limit=4, mean_s=0.0)
    refused = sum(len(queue.enter(waiter(f"org {number}", deadline=5.0), 0.0)) for number in range(1000))
    assert (len(queue), refused) == (19, 981)


def test_a_limit_that_falls_ends_the_hope_of_those_at_the_end() -> None:
    queue = full(limit=10, mean_s=1.0)
    all_of_them = [waiter(f"org {number}", deadline=3.0) for number in range(20)]
    for each in all_of_them:
        assert queue.enter(each, 0.0) == []
    queue.limit = 2
    refused = queue.hopeless(0.0)
    assert len(refused) == 14
    assert list(queue.waiters()) == all_of_them[:6]


def test_a_client_that_leaves_the_queue_has_not_used_its_tenants_turn() -> None:
    queue = full()
    gone = waiter("a", cost=10_000)
    queue.enter(gone, 0.0)
    assert queue.leave(gone)
    assert not queue.leave(gone)
    queue.enter(mine := waiter("a"), 0.0)
    queue.enter(waiter("b"), 0.0)
    assert served(queue)[0] is mine


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(list(Rank)), st.integers(1, 500), st.floats(0, 20)),
        max_size=60,
    ),
    st.integers(0, 2**32),
)
def test_nobody_is_lost_or_served_twice_and_none_beyond_the_limit(
    arrivals: list[tuple[str, Rank, int, float]], seed: int
) -> None:
    rng = random.Random(seed)
    queue = LaneQueue(max_waiting=20)
    queue.limit, queue.mean_s = 3, 0.7
    now = 0.0
    seen: list[Waiter] = []
    running: list[Waiter] = []
    waiting: set[Waiter] = set()
    for org, rank, cost, patience in arrivals:
        now += rng.random()
        each = Waiter(org, rank, cost, now + patience)
        waiting.add(each)
        for refused in queue.enter(each, now):
            waiting.remove(refused)
        choice = rng.random()
        if choice < 0.3 and running:
            running.pop()
            queue.ended(rng.random())
        elif choice < 0.4 and waiting:
            gone = rng.choice(sorted(waiting, key=lambda one: one.order))
            assert queue.leave(gone)
            waiting.remove(gone)
        elif choice < 0.6:
            for refused in queue.hopeless(now):
                waiting.remove(refused)
        for turn in queue.ready():
            waiting.remove(turn)
            seen.append(turn)
            running.append(turn)
        assert queue.in_flight == len(running) <= 3
        assert set(queue.waiters()) == waiting
        assert len(queue) == len(waiting) <= 20
    assert len(seen) == len(set(seen))


# What a request says of itself


def test_a_header_lowers_the_plans_priority_and_never_raises_it() -> None:
    assert rank_of("high", None) is Rank.HIGH
    assert rank_of("high", "low") is Rank.LOW
    assert rank_of("low", "high") is Rank.LOW
    assert rank_of("normal", "High") is Rank.NORMAL
    with pytest.raises(CodedError) as refusal:
        rank_of("normal", "urgent")
    assert (refusal.value.code, refusal.value.param) == (ErrorCode.INVALID_ARGUMENT, "X-CrossLogic-Priority")


def test_a_request_may_say_how_long_it_can_wait() -> None:
    assert queue_timeout_s(None, 5.0) == 5.0
    assert queue_timeout_s("250", 5.0) == 0.25
    assert queue_timeout_s("0", 5.0) == 0.0
    for wrong in ("", "-1", "1.5", "60001", "9" * 40, "¹"):
        with pytest.raises(CodedError):
            queue_timeout_s(wrong, 5.0)


def test_one_long_step_of_the_event_loop_refuses_nobody_and_a_lasting_lag_the_lowest_first() -> None:
    lag = LoopLag(shed_from_s=0.5)
    lag.look(30.0)
    assert not lag.refuses(Rank.LOW)
    for late_s, refused in ((0.6, [Rank.LOW]), (1.1, [Rank.NORMAL, Rank.LOW]), (2.5, list(Rank)), (0.0, [])):
        for _ in range(LOOKS):
            lag.look(late_s)
        assert [rank for rank in Rank if lag.refuses(rank)] == refused
