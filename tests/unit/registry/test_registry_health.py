"""How well a node is."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_registry.domain import Silence
from crosslogic_registry.health import BEST, RECENT_S, UNHEALTHY_BELOW, Signs, score
from crosslogic_registry.members import HALF_LIFE_S, Calls, Member, Recent

WELL = Signs(calls=100, first_byte_ms=100.0, usual_first_byte_ms=100.0, temperature_celsius=70)
signs = st.builds(
    Signs,
    silent_s=st.floats(0, 100),
    calls=st.integers(0, 1000),
    failed_calls=st.integers(0, 1000),
    first_byte_ms=st.floats(0, 1e6),
    usual_first_byte_ms=st.floats(0, 1e6),
    temperature_celsius=st.integers(0, 200),
    oom_recent=st.integers(0, 100),
    restarts_recent=st.integers(0, 100),
    memory_fragmentation=st.none() | st.floats(0, 1),
)


@given(signs)
def test_score_is_always_0_to_100(what: Signs) -> None:
    assert 0 <= score(what, Silence()) <= BEST


@given(signs, st.floats(0, 60), st.integers(0, 50), st.integers(0, 3))
def test_nothing_bad_makes_a_score_better(what: Signs, more_s: float, hotter: int, more: int) -> None:
    worse = replace(
        what,
        silent_s=what.silent_s + more_s,
        temperature_celsius=what.temperature_celsius + hotter,
        oom_recent=what.oom_recent + more,
        restarts_recent=what.restarts_recent + more,
        failed_calls=what.failed_calls + more,
    )
    assert score(worse, Silence()) <= score(what, Silence())


def test_well_node_has_100_and_each_sign_takes_its_part() -> None:
    def after(**changed: float) -> int:
        return score(replace(WELL, **changed), Silence())  # type: ignore[arg-type]

    assert after() == BEST
    assert after(silent_s=9.9) == BEST
    assert after(silent_s=15.0) < UNHEALTHY_BELOW
    assert after(silent_s=60.0) == 0
    assert after(failed_calls=25) == 70
    assert after(failed_calls=50) == 40
    assert after(first_byte_ms=300.0) == BEST
    assert after(first_byte_ms=301.0) == 80
    assert after(first_byte_ms=5000.0) == 60
    assert after(temperature_celsius=95) == 80
    assert after(oom_recent=1) == 85
    assert after(restarts_recent=2) == 80
    assert after(memory_fragmentation=0.81) == 90


def test_few_calls_say_nothing_of_errors() -> None:
    assert score(Signs(calls=9, failed_calls=9), Silence()) == BEST


def test_what_gateways_saw_fades() -> None:
    calls = Calls()
    calls.add(0, 100, now=1000.0)
    calls.add(100, 0, now=1000.0 + 10 * HALF_LIFE_S)
    assert calls.failed < 1
    assert calls.succeeded == 100


def test_restart_counts_for_ten_minutes_also_when_the_counter_begins_anew() -> None:
    recent = Recent()
    recent.see(2, 0.0)
    assert recent.count == 2
    recent.see(1, 10.0)
    assert recent.count == 3
    recent.see(1, 10.0 + RECENT_S + 1)
    assert recent.count == 0


def test_baseline_is_the_nodes_own_and_a_sick_time_does_not_become_usual() -> None:
    member = Member(pb.Node(), "active", drain_asked=False, heard_at=0.0)
    for _ in range(50):
        member.take_metrics(pb.NodeMetrics(first_byte_ms=2000, calls=20))
    assert member.usual_first_byte_ms == 2000
    assert member.score(0.0, Silence()) == BEST, "a slow model is no sick node"
    for _ in range(50):
        member.take_metrics(pb.NodeMetrics(first_byte_ms=9000, calls=20))
    assert member.usual_first_byte_ms == 2000
    assert member.score(0.0, Silence()) < 80
