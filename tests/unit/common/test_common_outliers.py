"""When a peer is passed over, for how long, and how it comes back."""

import pytest

from crosslogic_common.outliers import OutlierPolicy, PeerRecord, Phase, Reason, Seen, ejection_s

POLICY = OutlierPolicy()


def ok(count: int = 1, first_byte_us: int = 100_000) -> Seen:
    return Seen(count, 0, 0, count * first_byte_us)


def bad(count: int = 1) -> Seen:
    return Seen(0, count, count, 0)


def mixed(succeeded: int, failed: int) -> Seen:
    return Seen(succeeded, failed, 0, 0)


def record(*reports: Seen, now: float = 0.0) -> PeerRecord:
    made = PeerRecord()
    for seen in reports:
        made.note(seen, POLICY, now)
    return made


def test_five_failures_in_a_row_eject_and_four_do_not() -> None:
    assert record(bad(), bad(), bad(), bad()).reason_to_eject(POLICY, 0, 0.0) is None
    assert record(bad(), bad(3), bad()).reason_to_eject(POLICY, 0, 0.0) is Reason.FAILURES_IN_A_ROW
    assert record(bad(4), ok(), bad(4)).reason_to_eject(POLICY, 0, 0.0) is None
    # Four failures after successes of one message, then one more.
    assert record(Seen(3, 4, 4, 0), bad()).reason_to_eject(POLICY, 0, 0.0) is Reason.FAILURES_IN_A_ROW


def test_more_than_half_failed_ejects_only_over_a_minimum_volume() -> None:
    assert record(mixed(8, 11)).reason_to_eject(POLICY, 0, 0.0) is None
    assert record(mixed(10, 10)).reason_to_eject(POLICY, 0, 0.0) is None
    assert record(mixed(9, 11)).reason_to_eject(POLICY, 0, 0.0) is Reason.ERROR_RATE


def test_old_failures_are_forgotten() -> None:
    made = record(mixed(9, 11))
    made.note(mixed(0, 1), POLICY, POLICY.window_s)
    assert made.reason_to_eject(POLICY, 0, 0.0) is Reason.ERROR_RATE
    made.note(mixed(0, 1), POLICY, 2 * POLICY.window_s)
    assert made.volume == 2
    made.note(mixed(0, 1), POLICY, 9 * POLICY.window_s)
    assert made.volume == 1


def test_a_peer_three_times_as_slow_as_the_others_is_ejected_but_not_one_that_is_fast_all_the_same() -> None:
    def judged(seen: Seen, typical_us: float, for_s: float = POLICY.slow_for_s, answers: int = 5) -> Reason | None:
        made = record(seen)
        made.reason_to_eject(POLICY, typical_us, 0.0)
        made.note(ok(answers, first_byte_us=seen.first_byte_us_total // seen.succeeded), POLICY, 0.0)
        return made.reason_to_eject(POLICY, typical_us, for_s)

    assert judged(ok(20, first_byte_us=3_100_000), 1_000_000) is Reason.SLOW
    assert judged(ok(20, first_byte_us=3_100_000), 1_000_000, for_s=29.9) is None
    assert judged(ok(20, first_byte_us=3_100_000), 1_100_000) is None
    assert judged(ok(20, first_byte_us=3_100_000), 0) is None
    assert judged(ok(20, first_byte_us=3_100_000), 1_000_000, answers=4) is None
    assert judged(ok(20, first_byte_us=40_000), 10_000) is None


def test_a_burst_of_slowness_is_forgiven() -> None:
    made = record(ok(20, first_byte_us=3_100_000))
    assert made.reason_to_eject(POLICY, 1_000_000, 0.0) is None
    assert made.reason_to_eject(POLICY, 2_000_000, 15.0) is None
    assert made.reason_to_eject(POLICY, 1_000_000, 31.0) is None


def test_one_long_prompt_among_many_requests_is_not_slowness() -> None:
    made = record(ok(50, first_byte_us=100_000))
    made.note(ok(1, first_byte_us=4_000_000), POLICY, 0.0)
    assert made.latency_us < 300_000


@pytest.mark.parametrize(("ejections", "length_s"), [(1, 30), (2, 60), (9, 270), (10, 300), (50, 300)])
def test_each_ejection_lasts_longer_up_to_five_minutes(ejections: int, length_s: float) -> None:
    assert ejection_s(ejections, POLICY) == length_s


def test_an_ejection_is_forgotten_for_each_that_was_served_through() -> None:
    made = record(bad(5))
    made.eject(POLICY, 0.0)
    assert (made.phase, made.until) == (Phase.OUT, 30.0)
    made.half_open()
    made.start_trial(POLICY, 31.0)
    made.eject(POLICY, 32.0)
    assert made.until == 32.0 + 60.0
    made.half_open()
    made.restore(POLICY, 100.0)
    made.note(ok(), POLICY, 159.0)
    assert made.ejections == 2
    made.note(ok(), POLICY, 160.0)
    assert made.ejections == 1
    made.note(ok(), POLICY, 191.0)
    assert made.ejections == 0


def test_a_peer_comes_back_without_its_old_figures() -> None:
    made = record(ok(30, first_byte_us=9_000_000), bad(5))
    made.eject(POLICY, 0.0)
    made.half_open()
    made.restore(POLICY, 40.0)
    assert made.reason_to_eject(POLICY, 100_000, 0.0) is None
    made.note(bad(4), POLICY, 41.0)
    assert made.reason_to_eject(POLICY, 100_000, 0.0) is None
