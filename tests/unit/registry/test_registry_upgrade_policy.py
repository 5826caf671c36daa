"""When a model upgrade moves on and when it goes back, decided by what was seen alone."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic.registry.v1 import upgrades_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_registry.upgrades import policy
from crosslogic_registry.upgrades.domain import UNDER_WAY, Counts, Outcomes, Rules, Serving, Upgrade, Wish

RULES = Rules(steps_percent=(5, 50, 100), step_s=60, step_requests=100, lost_s=30, finish_s=600)
BOTH_SERVE = Serving(new_nodes=2, old_nodes=2, old_undrained=2, old_requests=5, heartbeat_s=5.0)


def upgrade(**others: object) -> Upgrade:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    made = Upgrade(
        number=1,
        id="00000000-0000-0000-0000-000000000001",
        model="tiny",
        from_version="v1",
        to_version="v2",
        phase="shifting",
        step=0,
        reason="",
        rules=RULES,
        created_at=at,
        changed_at=at,
        for_s=60.0,
    )
    return replace(made, **others)  # type: ignore[arg-type]


def counts(requests: int, *, failed: int = 0, first_token_ms: float = 100.0) -> Counts:
    answered = requests - failed
    return Counts(answered, failed, answered, round(answered * first_token_ms * 1000))


def seen(new: Counts, old: Counts | None = None) -> Outcomes:
    old = counts(2_000) if old is None else old
    return Outcomes(new=new, old=old, old_in_all=old)


def moved(found: Upgrade, outcomes: Outcomes, serving: Serving = BOTH_SERVE) -> tuple[str, int] | None:
    move = policy.decide(found, outcomes, serving)
    return None if move is None else (move.phase, move.step)


def test_a_good_step_is_followed_by_the_next_once_time_and_volume_are_there() -> None:
    assert moved(upgrade(), seen(counts(100))) == ("shifting", 1)
    assert moved(upgrade(for_s=59.9), seen(counts(100_000))) is None
    assert moved(upgrade(for_s=1e6), seen(counts(99))) is None
    assert moved(upgrade(step=2), seen(counts(100))) == ("finishing", 3)


def test_failures_above_the_old_versions_send_it_back_at_once_however_early() -> None:
    assert moved(upgrade(for_s=1.0), seen(counts(3, failed=3))) == ("rolled_back", 0)
    assert moved(upgrade(for_s=1.0), seen(counts(2, failed=2))) is None
    assert moved(upgrade(), seen(counts(1_000, failed=19))) == ("shifting", 1)
    assert moved(upgrade(), seen(counts(1_000, failed=21))) == ("rolled_back", 0)


def test_a_fleet_that_fails_as_a_whole_does_not_speak_against_the_new_version() -> None:
    assert moved(upgrade(), seen(counts(1_000, failed=110), counts(1_000, failed=100))) == ("shifting", 1)


def test_later_first_tokens_send_it_back_but_not_within_the_slack() -> None:
    assert moved(upgrade(), seen(counts(100, first_token_ms=160))) == ("rolled_back", 0)
    assert moved(upgrade(), seen(counts(100, first_token_ms=149))) == ("shifting", 1)
    fast = counts(2_000, first_token_ms=10)
    assert moved(upgrade(), seen(counts(100, first_token_ms=59), fast)) == ("shifting", 1)
    assert moved(upgrade(), seen(counts(100, first_token_ms=61), fast)) == ("rolled_back", 0)


def test_at_the_last_step_the_new_version_is_compared_with_what_the_old_one_did_before() -> None:
    slow = Outcomes(new=counts(100, first_token_ms=400), old=counts(2), old_in_all=counts(2_000))
    assert moved(upgrade(step=2), slow) == ("rolled_back", 2)


def test_a_new_version_without_nodes_is_sent_back_after_a_while() -> None:
    gone = replace(BOTH_SERVE, new_nodes=0)
    assert moved(upgrade(), seen(Counts()), replace(gone, lost_s=29.0)) is None
    assert moved(upgrade(), seen(Counts()), replace(gone, lost_s=30.0)) == ("rolled_back", 0)
    assert moved(upgrade(phase="finishing", step=3), seen(Counts()), replace(gone, lost_s=30.0)) == ("rolled_back", 3)


def test_it_waits_for_its_nodes_and_gives_up_after_a_while() -> None:
    waiting = upgrade(phase="waiting", rules=replace(RULES, min_nodes=3, wait_s=100), for_s=99.0)
    assert moved(waiting, seen(Counts())) is None
    assert moved(waiting, seen(Counts()), replace(BOTH_SERVE, new_nodes=3)) == ("shifting", 0)
    assert moved(replace(waiting, for_s=0.9), seen(Counts()), replace(BOTH_SERVE, new_nodes=3)) is None
    assert moved(replace(waiting, for_s=100.0), seen(Counts())) == ("rolled_back", 0)


def test_old_nodes_are_drained_once_nothing_runs_there_by_heartbeats_that_came_since() -> None:
    finishing = upgrade(phase="finishing", step=3, for_s=11.0)
    idle = replace(BOTH_SERVE, old_requests=0)
    assert moved(finishing, seen(Counts()), idle) == ("draining", 3)
    assert moved(replace(finishing, for_s=10.0), seen(Counts()), idle) is None
    assert moved(finishing, seen(Counts())) is None
    assert moved(replace(finishing, for_s=600.0), seen(Counts())) == ("draining", 3)
    draining = upgrade(phase="draining", step=3)
    assert moved(draining, seen(Counts())) is None
    assert moved(draining, seen(Counts()), replace(idle, old_undrained=0)) == ("done", 3)


def test_a_fault_while_finishing_still_sends_it_back() -> None:
    assert moved(upgrade(phase="finishing", step=3), seen(counts(10, failed=5))) == ("rolled_back", 3)


@pytest.mark.parametrize("steps", [[0, 100], [50], [50, 50, 100], [100, 50], [5, 101], list(range(1, 22)), [100, 100]])
def test_steps_that_do_not_rise_to_100_are_refused(steps: list[int]) -> None:
    with pytest.raises(CodedError) as refused:
        policy.check_rules(pb.UpgradeRules(steps_percent=steps))
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "rules",
    [
        pb.UpgradeRules(max_error_percent=float("nan")),
        pb.UpgradeRules(max_error_percent=-1),
        pb.UpgradeRules(max_first_token_ratio=float("inf")),
        pb.UpgradeRules(max_first_token_ratio=0.5),
        pb.UpgradeRules(step_s=604_801),
        pb.UpgradeRules(lost_s=2**32 - 1),
    ],
)
def test_rules_that_nobody_can_mean_are_refused(rules: pb.UpgradeRules) -> None:
    with pytest.raises(CodedError):
        policy.check_rules(rules)


def test_what_is_left_out_of_the_rules_is_as_the_contract_says() -> None:
    assert policy.check_rules(pb.UpgradeRules()) == Rules()
    assert policy.check_rules(pb.UpgradeRules(max_error_percent=0.0)).max_error_share == 0.0


def test_an_upgrade_starts_from_the_catalogues_version_or_from_the_one_that_all_nodes_name() -> None:
    wish = Wish(model="tiny", from_version=None, guess=None, to_version="v2", rules=RULES)
    assert policy.version_before(replace(wish, guess="stray"), "v1") == "v1"
    assert policy.version_before(replace(wish, guess=""), None) == ""
    assert policy.version_before(replace(wish, from_version="v1", guess="v0"), None) == "v1"
    for refused, serving in ((wish, None), (wish, "v2"), (replace(wish, from_version="v0"), "v1")):
        with pytest.raises(CodedError) as error:
            policy.version_before(refused, serving)
        assert error.value.code is ErrorCode.CONFLICT


COUNTS = st.builds(
    Counts, st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10**12)
)
OUTCOMES = st.builds(Outcomes, COUNTS, COUNTS, COUNTS)
SERVING = st.builds(
    Serving,
    new_nodes=st.integers(0, 5),
    old_nodes=st.integers(0, 5),
    old_undrained=st.integers(0, 5),
    old_requests=st.integers(0, 5),
    heartbeat_s=st.floats(0.1, 60),
    lost_s=st.floats(0, 1e6),
)
UPGRADES = st.builds(
    lambda phase, step, for_s: upgrade(phase=phase, step=step if phase == "shifting" else 3, for_s=for_s),
    st.sampled_from(UNDER_WAY),
    st.integers(0, 2),
    st.floats(0, 1e6),
)


@given(UPGRADES, OUTCOMES, SERVING)
def test_it_never_skips_a_step_nor_goes_back_to_a_version_that_nobody_serves(
    found: Upgrade, outcomes: Outcomes, serving: Serving
) -> None:
    move = policy.decide(found, outcomes, serving)
    if move is None:
        return
    if move.phase == "rolled_back":
        assert found.phase != "draining"
        assert found.phase == "waiting" or serving.old_nodes > 0
        assert "v2" not in {share.version for share in policy.shares(policy.after(found, move))}
        return
    ranks = ["waiting", "shifting", "finishing", "draining", "done"]
    assert move.step <= found.step + 1 or found.phase == "waiting"
    assert ranks.index(move.phase) - ranks.index(found.phase) in (0, 1)
    assert policy.percent(policy.after(found, move)) >= policy.percent(found)


@given(UPGRADES)
def test_every_request_has_a_version_and_the_old_one_stays_at_hand_until_it_drains(found: Upgrade) -> None:
    shares = policy.shares(found)
    assert sum(share.per_mille for share in shares) == 1_000
    assert all(share.per_mille >= 0 for share in shares)
    assert (shares[0].version == "v1") == (found.phase != "draining")
