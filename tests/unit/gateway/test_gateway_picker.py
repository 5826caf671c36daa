"""Picking while the scheduler is away: known nodes in turn, none that failed, none too old, bounded."""

from datetime import UTC, datetime

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic_gateway import picker
from crosslogic_gateway.picker import LastKnownRoutes

PLACE = ("model", "org", "")


class ManualClock:
    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime.now(UTC)


def picked(node_id: str, address: str = "127.0.0.1:1") -> pb.PickResponse:
    return pb.PickResponse(node_id=node_id, address=address, region="local")


def test_known_nodes_take_turns_and_failed_ones_are_passed_over() -> None:
    routes = LastKnownRoutes(clock=ManualClock())
    for name in ("a", "b", "c"):
        routes.remember(PLACE, picked(name))
    turns = [route.node_id for _ in range(6) if (route := routes.next(PLACE, ())) is not None]
    assert turns == ["a", "b", "c", "a", "b", "c"]
    chosen = routes.next(PLACE, ("a", "b"))
    assert chosen is not None
    assert chosen.node_id == "c"
    assert routes.next(PLACE, ("a", "b", "c")) is None


def test_nothing_is_offered_to_another_tenant_or_model() -> None:
    routes = LastKnownRoutes(clock=ManualClock())
    routes.remember(PLACE, picked("a"))
    assert routes.next(("model", "other-org", ""), ()) is None
    assert routes.next(("other-model", "org", ""), ()) is None


def test_a_route_ends_when_it_was_not_confirmed_for_too_long() -> None:
    clock = ManualClock()
    routes = LastKnownRoutes(clock=clock, max_age_s=600)
    routes.remember(PLACE, picked("a"))
    clock.at = 599
    assert routes.next(PLACE, ()) is not None
    clock.at = 601
    assert routes.next(PLACE, ()) is None


def test_a_node_that_moved_is_reached_at_its_new_address() -> None:
    routes = LastKnownRoutes(clock=ManualClock())
    first = routes.remember(PLACE, picked("a"))
    assert routes.remember(PLACE, picked("a")) is first
    assert routes.remember(PLACE, picked("a", "127.0.0.1:2")).address == "127.0.0.1:2"


def test_memory_is_bounded_by_places_and_by_nodes_of_a_place() -> None:
    routes = LastKnownRoutes(clock=ManualClock())
    for number in range(picker.MAX_PLACES + 50):
        routes.remember(("model", str(number), ""), picked("a"))
    assert len(routes._places) == picker.MAX_PLACES
    for number in range(100):
        routes.remember(PLACE, picked(str(number)))
    assert len(routes._places[PLACE]) == picker.MAX_ROUTES_A_PLACE
