"""What the autoscaler decides, case by case."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crosslogic_orchestrator.scaling.domain import (
    Deployment,
    History,
    Load,
    Member,
    Offer,
    Plan,
    Point,
    Snapshot,
)
from crosslogic_orchestrator.scaling.policy import decide, remember

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DOLLAR = 10**12
BUSY = Load(running=12, tokens_per_s=600, capacity_tokens_per_s=800, max_sequences=16)
QUIET = Load(capacity_tokens_per_s=800, max_sequences=16)


def offer(**changes: Any) -> Offer:
    return replace(
        Offer(
            provider="p",
            region="r",
            instance_type="t",
            spot=False,
            price_picodollars=2 * DOLLAR,
            expected_price_picodollars=2 * DOLLAR,
        ),
        **changes,
    )


SPOT = offer(spot=True, price_picodollars=DOLLAR)


def deployment(**changes: Any) -> Deployment:
    return replace(Deployment(id="d", model="m", region="r", min_nodes=1, max_nodes=10), **changes)


def member(name: str, **changes: Any) -> Member:
    return replace(
        Member(id=name, phase="ready", price_picodollars=2 * DOLLAR, since=NOW - timedelta(hours=1), load=QUIET),
        **changes,
    )


def seen(*members: Member, **changes: Any) -> Snapshot:
    return replace(Snapshot(now=NOW, members=members, offers=(SPOT, offer())), **changes)


def watched(wanted: int = 1, *, busy: float = 0.0, **changes: Any) -> History:
    """Ten minutes in which so many were wanted and so many requests ran."""
    points = tuple(Point(NOW - timedelta(seconds=5 * n), busy, 0, wanted) for n in range(120, 0, -1))
    return replace(History(points=points), **changes)


def signals(plan: Plan) -> dict[str, int]:
    return {need.signal: need.nodes for need in plan.needs}


def test_new_deployment_gets_its_least_machines_at_once() -> None:
    plan = decide(deployment(min_nodes=3), seen(), History())
    assert [launch.offer.spot for launch in plan.launches] == [False] * 3
    assert plan.launches[0].why == "min: `min_nodes` is 3"


def test_machine_that_its_cloud_takes_back_is_replaced_though_it_still_runs_and_the_fleet_just_grew() -> None:
    history = History(scaled_up_at=NOW)
    plan = decide(
        deployment(min_nodes=3, max_nodes=3),
        seen(member("a"), member("b"), member("c", phase="taken")),
        history,
    )
    (launch,) = plan.launches
    assert launch.replaces == "c"
    assert "taken back" in launch.why
    assert plan.ends == ()


def test_fleet_that_only_looks_dead_is_not_paid_twice_past_its_bounds() -> None:
    members = [member(f"n{n}", phase="silent") for n in range(4)]
    plan = decide(deployment(min_nodes=4, max_nodes=5), seen(*members), watched(4))
    assert [launch.replaces for launch in plan.launches] == ["n0"]
    assert plan.held[-1] == (
        "4 machines that look dead, with most of the fleet, are not ended and still count against `max_nodes`"
    )
    plan = decide(deployment(min_nodes=4, max_spend_picodollars=8 * DOLLAR), seen(*members), watched(4))
    assert plan.launches == ()
    assert "$8.00 are allowed" in plan.held[-1]


def test_machine_at_risk_is_replaced_first_and_ended_only_when_its_replacement_serves() -> None:
    wanted = deployment(min_nodes=2)
    risky = member("a", at_risk=True)
    plan = decide(wanted, seen(risky, member("b")), watched(2))
    assert [launch.replaces for launch in plan.launches] == ["a"]
    assert plan.ends == ()

    loading = seen(risky, member("b"), member("c", phase="launching"))
    assert decide(wanted, loading, watched(2)) == replace(decide(wanted, loading, watched(2)), launches=(), ends=())

    plan = decide(wanted, seen(risky, member("b"), member("c")), watched(2))
    assert [end.member_id for end in plan.ends] == ["a"]


def test_load_beyond_what_the_machines_can_do_launches_more_and_says_why() -> None:
    plan = decide(deployment(), seen(member("a", load=BUSY)), watched(busy=12))
    assert len(plan.launches) == 1
    assert plan.launches[0].why.startswith("load: 12.0 requests at once, 16 on a machine")


def test_queue_that_grows_is_met_before_it_is_long() -> None:
    full = replace(BUSY, running=16, tokens_per_s=800, waiting=200)
    points = tuple(Point(NOW - timedelta(seconds=s), 16.0, 20 * (10 - s), 1) for s in (10, 5))
    plan = decide(deployment(), seen(member("a", load=full)), History(points=points))
    assert signals(plan)["backlog"] > 5
    assert len(plan.launches) == 9, "no more than `max_nodes`"
    assert any("`max_nodes` is 10" in held for held in plan.held)


def test_machines_that_work_a_queue_off_ask_for_no_others() -> None:
    full = replace(BUSY, running=16, tokens_per_s=800)
    members = [member(f"n{n}", load=replace(full, waiting=50)) for n in range(4)]
    points = tuple(Point(NOW - timedelta(seconds=s), 64.0, 200 + 50 * s // 5, 4) for s in range(40, 0, -5))
    plan = decide(deployment(scale_up_cooldown_s=0.0), seen(*members), History(points=points))
    assert "saturated" not in signals(plan)
    assert max(signals(plan).values()) <= 4, signals(plan)
    assert plan.launches == ()


def test_queue_that_stands_before_full_machines_asks_for_more_whatever_the_noise() -> None:
    full = replace(BUSY, running=16, tokens_per_s=800, waiting=50)
    members = [member(f"n{n}", load=full) for n in range(4)]
    points = tuple(Point(NOW - timedelta(seconds=s), 63.9, 201, 4) for s in range(40, 0, -5))
    plan = decide(deployment(), seen(*members), History(points=points))
    assert signals(plan)["saturated"] == 6


def test_queue_that_grows_is_seen_however_seldom_anybody_looks() -> None:
    full = replace(BUSY, running=16, tokens_per_s=800, waiting=600)
    for interval_s in (5, 60):
        points = (Point(NOW - timedelta(seconds=interval_s), 16.0, 600 - 10 * interval_s, 1),)
        plan = decide(deployment(max_nodes=40), seen(member("a", load=full)), History(points=points))
        assert signals(plan)["backlog"] > 10, interval_s


def test_queue_no_longer_than_chance_makes_is_no_burst() -> None:
    full = replace(BUSY, running=16, tokens_per_s=800, waiting=1)
    members = [member(f"n{n}", load=full) for n in range(4)]
    points = tuple(Point(NOW - timedelta(seconds=s), 50.0, 0, 4) for s in range(40, 0, -5))
    plan = decide(deployment(), seen(*members), History(points=points))
    assert signals(plan)["backlog"] == 4
    assert plan.launches == ()


def test_reserved_capacity_that_was_sold_stays_whatever_the_load() -> None:
    members = [member(f"n{n}") for n in range(3)]
    plan = decide(deployment(min_nodes=0), seen(*members, reserved_tokens_per_s=2_000), watched(3))
    assert signals(plan)["reserved"] == 3
    assert plan.ends == ()


@pytest.mark.parametrize(("share", "floor", "spots"), [(0.0, 0, 0), (1.0, 0, 4), (0.5, 0, 2), (1.0, 1, 3), (0.5, 3, 1)])
def test_machines_are_spot_as_far_as_share_and_floor_allow(share: float, floor: int, spots: int) -> None:
    plan = decide(deployment(min_nodes=4, spot_share=share, on_demand_floor=floor), seen(), History())
    assert sum(launch.offer.spot for launch in plan.launches) == spots


def test_on_demand_floor_that_was_raised_is_met_by_one_machine_more_and_then_a_spot_goes() -> None:
    wanted = deployment(min_nodes=2, spot_share=1.0, on_demand_floor=1)
    spots = [member(f"s{n}", spot=True) for n in range(2)]
    plan = decide(wanted, seen(*spots), watched(2))
    assert [launch.offer.spot for launch in plan.launches] == [False]

    plan = decide(wanted, seen(*spots, member("a")), watched(2))
    assert [end.member_id for end in plan.ends] in (["s0"], ["s1"])


def test_machines_on_demand_come_where_no_spot_is_on_offer() -> None:
    plan = decide(deployment(spot_share=1.0), seen(offers=(offer(),)), History())
    assert [launch.offer.spot for launch in plan.launches] == [False]


def test_spending_stays_within_its_bound_and_the_plan_says_what_it_would_cost() -> None:
    plan = decide(deployment(min_nodes=4, max_spend_picodollars=5 * DOLLAR), seen(), History())
    assert len(plan.launches) == 2
    assert plan.held == ("another machine would cost $2.00 an hour more than the $4.00 of now, and $5.00 are allowed",)


def test_growth_waits_for_its_cool_down() -> None:
    history = watched(busy=12, scaled_up_at=NOW - timedelta(seconds=4))
    plan = decide(deployment(), seen(member("a", load=BUSY)), history)
    assert plan.launches == ()
    assert plan.held == ("the last growth was too lately: 6 s to wait",)


def test_clock_that_went_back_an_hour_neither_blocks_growth_nor_makes_too_much_of_it() -> None:
    ahead = NOW + timedelta(hours=1)
    history = History(
        points=tuple(Point(ahead + timedelta(seconds=5 * n), 900.0, 5_000, 60) for n in range(10)),
        scaled_up_at=ahead,
        failed_launches=3,
        failed_at=ahead,
    )
    members = (member("a", load=BUSY), member("b", load=BUSY, since=ahead, phase="launching"))
    plan = decide(deployment(max_nodes=60), seen(*members), history)
    assert (plan.desired, plan.held) == (2, ())
    before = Point(NOW - timedelta(seconds=5), 12.0, 0, 2)
    history = replace(history, points=(before, *history.points))
    waiting = member("a", load=replace(BUSY, waiting=40))
    plan = decide(deployment(max_nodes=60), seen(waiting, members[1]), history)
    assert 1 <= len(plan.launches) < 20
    kept = remember(deployment(), history, plan, now=NOW)
    assert [point.at for point in kept.points] == [before.at, NOW]


@pytest.mark.parametrize("capacity", [5e-324, 1e-300, 1e12])
@pytest.mark.parametrize("sold", [0.0, 1e19])
@pytest.mark.parametrize("forecast", [0.0, 1e300, float("inf")])
def test_figures_that_make_no_sense_ask_for_no_more_than_the_bound(
    capacity: float, sold: float, forecast: float
) -> None:
    mad = replace(BUSY, running=2**32 - 1, waiting=2**32 - 1, capacity_tokens_per_s=capacity, tokens_per_s=1e12)
    points = (Point(NOW - timedelta(seconds=5), 16.0, 0, 1),)
    asked = seen(
        member("a", load=mad),
        reserved_tokens_per_s=sold,
        forecast_tokens_per_s=forecast,
        tokens_per_request=1e13,
        start_s=1e9,
    )
    assert decide(deployment(), asked, History(points=points)).desired == 10


def test_machines_go_once_they_were_not_needed_for_the_whole_cool_down() -> None:
    members = [member(f"n{n}") for n in range(4)]
    assert decide(deployment(), seen(*members), watched(4)).ends == ()
    plan = decide(deployment(), seen(*members), watched(2))
    assert len(plan.ends) == 2
    assert "2 were needed in the last 300 s" in plan.ends[0].why


def test_nothing_goes_while_something_comes() -> None:
    plan = decide(deployment(), seen(member("a"), member("b"), member("c", phase="launching")), watched(1))
    assert plan.ends == ()
    assert plan.held == ("machines are on their way: what they change is waited for",)


def test_whoever_has_just_begun_to_watch_ends_nothing() -> None:
    plan = decide(deployment(), seen(member("a"), member("b")), History())
    assert plan.ends == ()
    assert any("not watched for long enough" in held for held in plan.held)


def test_the_one_with_the_least_to_do_goes_first() -> None:
    members = [member("a", load=replace(QUIET, running=2)), member("b"), member("c", load=replace(QUIET, running=1))]
    plan = decide(deployment(), seen(*members), watched(2))
    assert [end.member_id for end in plan.ends] == ["b"]


def test_launches_that_fail_are_tried_ever_less_often() -> None:
    history = History(failed_launches=4, failed_at=NOW - timedelta(seconds=30))
    plan = decide(deployment(), seen(), history)
    assert plan.launches == ()
    assert plan.held == ("4 launches in a row failed: 10 s to wait",)


def test_idle_deployment_without_a_least_goes_to_nothing_and_a_held_request_wakes_it() -> None:
    wanted = deployment(min_nodes=0)
    assert [end.member_id for end in decide(wanted, seen(member("a")), watched(0)).ends] == ["a"]
    assert decide(wanted, seen(), watched(0)).launches == ()
    plan = decide(wanted, seen(held_requests=3), watched(0))
    assert [launch.why for launch in plan.launches] == [
        "wake: 3 requests are held at gateways and no node serves the model"
    ]


def test_sleeping_deployment_that_many_wait_for_wakes_with_as_many_machines_as_they_need() -> None:
    wanted, known = deployment(min_nodes=0), {"capacity_tokens_per_s": 800.0, "max_sequences": 16}
    plan = decide(wanted, seen(held_requests=500, tokens_per_request=200.0, **known), watched(0))
    assert len(plan.launches) == 3, "500 requests of 4 s each within a minute: 33 at once"
    plan = decide(wanted, seen(held_requests=500), watched(0))
    assert len(plan.launches) == 1, "what a machine can do is not known yet"


def test_nodes_of_others_carry_their_part_and_are_never_ended() -> None:
    plan = decide(deployment(min_nodes=0), seen(member("x", own=False, load=BUSY)), watched(0, busy=12))
    assert plan.desired == 1, "two are needed and one is there"
    plan = decide(deployment(min_nodes=0), seen(member("x", own=False)), watched(0))
    assert (plan.ends, plan.launches) == ((), ())


def test_warm_spares_come_on_top_of_what_the_load_needs() -> None:
    plan = decide(deployment(warm_spares=2), seen(member("a", load=BUSY)), watched(busy=12))
    assert plan.desired == 4


def test_usual_load_of_the_hour_is_met_before_it_comes() -> None:
    plan = decide(deployment(), seen(member("a"), forecast_tokens_per_s=3_000), watched())
    assert plan.launches[0].why.startswith("forecast: 3,000 tokens/s are usual at this hour")


def test_full_kv_cache_asks_for_more_machines_though_tokens_flow_slowly() -> None:
    plan = decide(deployment(), seen(member("a", load=replace(QUIET, running=3, kv_cache_usage=0.97))), watched())
    assert signals(plan)["kv_cache"] == 2


def test_slow_first_tokens_of_idle_machines_launch_nothing() -> None:
    slow = replace(QUIET, first_byte_ms=5_000)
    assert "first_token" not in signals(decide(deployment(), seen(member("a", load=slow)), watched()))
    busy = replace(BUSY, first_byte_ms=5_000)
    assert signals(decide(deployment(), seen(member("a", load=busy)), watched()))["first_token"] == 2


def test_paused_deployment_is_left_alone() -> None:
    plan = decide(deployment(mode="paused", min_nodes=2), seen(), History())
    assert (plan.launches, plan.held) == ((), ("the deployment is paused",))


def test_what_is_remembered_does_not_grow_for_ever() -> None:
    history, wanted = History(), deployment()
    for n in range(500):
        moment = NOW + timedelta(seconds=5 * n)
        plan = decide(wanted, seen(member("a"), now=moment), history)
        history = remember(wanted, history, plan, now=moment)
    assert len(history.points) == 62, "five minutes and the one before"
