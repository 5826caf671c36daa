"""What a worker tells the registry of nodes."""

from typing import Any, cast

from crosslogic.scheduler.v1 import scheduler_pb2 as scheduler_pb
from crosslogic_gateway.registry_link import MAX_OBSERVATIONS, RegistryLink


def link(heard: dict[str, float]) -> RegistryLink:
    return RegistryLink(
        channels=cast("Any", None), target="127.0.0.1:1", tunnel_address="", heard=lambda: list(heard.items())
    )


def test_node_is_told_as_heard_only_when_it_was_heard_since_the_last_time() -> None:
    heard = {"a": 99.5, "b": 0.0}
    told = link(heard)
    assert [(each.node_id, each.heard_ms_ago_plus_one) for each in told.observations(100.0)] == [("a", 501)]
    assert told.observations(101.0) == []
    heard["a"] = 101.8
    assert [each.heard_ms_ago_plus_one for each in told.observations(102.0)] == [201]


def test_outcomes_are_summed_and_told_once_also_of_a_node_that_was_never_heard() -> None:
    told = link({})
    told.note(scheduler_pb.NodeOutcomes(node_id="a", succeeded=3, first_byte_us_total=5_000), 2)
    told.note(scheduler_pb.NodeOutcomes(node_id="a", succeeded=1, failed=2, first_byte_us_total=1_000), 1)
    [seen] = told.observations(1.0)
    assert (seen.node_id, seen.succeeded, seen.failed, seen.heard_ms_ago_plus_one) == ("a", 4, 2, 0)
    assert (seen.first_byte_us_total, seen.first_bytes) == (6_000, 3)
    assert told.observations(2.0) == []


def test_what_waits_for_a_registry_that_is_away_is_bounded() -> None:
    told = link({str(number): float(number + 1) for number in range(2 * MAX_OBSERVATIONS)})
    for number in range(2 * MAX_OBSERVATIONS):
        told.note(scheduler_pb.NodeOutcomes(node_id=f"x{number}", failed=1), 0)
    assert len(told.observations(1e6)) == MAX_OBSERVATIONS
    assert len(told._told_heard) == MAX_OBSERVATIONS
