"""From when to when a node was there: what its machine cost is reckoned from it."""

from datetime import UTC, datetime, timedelta

from crosslogic_registry.lives import Life, lives_of

START = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(minutes: int) -> datetime:
    return START + timedelta(minutes=minutes)


def test_a_node_that_is_there_has_one_life_without_an_end_whatever_its_states_were() -> None:
    assert lives_of([(False, at(0)), (False, at(1)), (False, at(9))]) == [Life(at(0), None)]


def test_a_node_that_died_and_came_back_costs_nothing_in_between() -> None:
    changes = [(False, at(0)), (False, at(2)), (True, at(5)), (False, at(8)), (True, at(9))]
    assert lives_of(changes) == [Life(at(0), at(5)), Life(at(8), at(9))]


def test_a_node_that_never_was_there_for_any_time_has_no_life() -> None:
    assert lives_of([]) == []
    assert lives_of([(True, at(3))]) == []
    assert lives_of([(False, at(3)), (True, at(3))]) == []
