"""Picking while the scheduler is away: known nodes in turn, none that failed, none too old, bounded."""

from datetime import UTC, datetime

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic_gateway import known_routes
from crosslogic_gateway.affinity import key_of
from crosslogic_gateway.known_routes import LastKnownRoutes, Place

PLACE: Place = ("model", "org", "", ())


class ManualClock:
    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime.now(UTC)


def picked(node_id: str, address: str = "127.0.0.1:1", *, region_failover: bool = False) -> pb.PickResponse:
    return pb.PickResponse(node_id=node_id, address=address, region="local", region_failover=region_failover)


def taken(routes: LastKnownRoutes, *excluded: str, session_key: int = 0) -> str:
    route = routes.next(PLACE, excluded, session_key)
    assert route is not None
    return route.node_id


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
    routes.remember(PLACE, pb.PickResponse(node_id="a", address="h:1", node_org_id="org"))
    assert routes.next(("model", "other-org", "", ()), ()) is None
    assert routes.next(("other-model", "org", "", ()), ()) is None


def test_data_that_must_stay_in_its_region_is_sent_to_no_node_known_from_requests_that_may_leave() -> None:
    routes = LastKnownRoutes(clock=ManualClock())
    routes.remember(PLACE, picked("abroad", region_failover=True))
    assert routes.next(("model", "org", "", ("local",)), ()) is None


def test_a_stream_goes_on_at_its_own_version_also_from_memory() -> None:
    routes = LastKnownRoutes(clock=ManualClock())
    for node_id, version in (("a", "v1"), ("b", "v2"), ("c", "v2")):
        routes.remember(PLACE, pb.PickResponse(node_id=node_id, address="h:1", model_version=version))
    assert {route.node_id for _ in range(4) if (route := routes.next(PLACE, ("b",), version="v2"))} == {"c"}
    assert routes.next(PLACE, ("b", "c"), version="v2") is None
    routes.remember(PLACE, pb.PickResponse(node_id="c", address="h:1", model_version="v1"))
    assert routes.next(PLACE, ("b",), version="v2") is None


def test_somebody_who_was_never_here_is_served_by_nodes_for_all_in_the_same_region_only() -> None:
    routes = LastKnownRoutes(clock=ManualClock())
    routes.remember(("model", "org", "eu", ()), picked("shared"))
    routes.remember(("model", "org", "eu", ()), picked("abroad", region_failover=True))
    routes.remember(("model", "org", "eu", ()), pb.PickResponse(node_id="own", address="h:1", node_org_id="org"))
    newcomer = [routes.next(("model", "new", "eu", ("eu",)), ()) for _ in range(4)]
    assert {route.node_id for route in newcomer if route} == {"shared"}
    assert routes.next(("model", "new", "us", ()), ()) is None
    assert routes.next(("other-model", "new", "eu", ()), ()) is None
    own = {route.node_id for _ in range(6) if (route := routes.next(("model", "org", "eu", ()), ())) is not None}
    assert own == {"shared", "own"}


def test_nodes_abroad_come_after_those_at_home() -> None:
    routes = LastKnownRoutes(clock=ManualClock())
    routes.remember(PLACE, picked("abroad", region_failover=True))
    routes.remember(PLACE, picked("home"))
    assert [taken(routes) for _ in range(3)] == ["home"] * 3
    assert taken(routes, "home") == "abroad"
    # It is home again: no longer a stopgap.
    routes.remember(PLACE, picked("abroad"))
    assert {taken(routes) for _ in range(2)} == {"home", "abroad"}


def test_nodes_that_failed_here_are_passed_over_but_never_more_than_half() -> None:
    ejected = {"a"}
    routes = LastKnownRoutes(clock=ManualClock(), ejected=ejected.__contains__)
    for name in ("a", "b", "c"):
        routes.remember(PLACE, picked(name))
    assert {taken(routes) for _ in range(6)} == {"b", "c"}
    # Somebody must serve: one that failed before is better than none.
    assert taken(routes, "b", "c") == "a"
    ejected |= {"b"}
    assert {taken(routes) for _ in range(6)} == {"a", "b", "c"}


def test_a_session_stays_with_its_node_and_a_lost_node_moves_no_other_session() -> None:
    routes = LastKnownRoutes(clock=ManualClock())
    for name in ("a", "b", "c", "d"):
        routes.remember(PLACE, picked(name))
    sessions = [key_of(str(number)) for number in range(60)]
    before = {session: taken(routes, session_key=session) for session in sessions}
    assert set(before.values()) == {"a", "b", "c", "d"}
    after = {session: taken(routes, "b", session_key=session) for session in sessions}
    assert all(after[session] == before[session] for session in sessions if before[session] != "b")


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
    for number in range(known_routes.MAX_PLACES + 50):
        routes.remember(("model", str(number), "", ()), picked("a"))
    assert len(routes._places) == known_routes.MAX_PLACES
    for number in range(100):
        routes.remember(PLACE, picked(str(number)))
    assert len(routes._places[PLACE]) == known_routes.MAX_ROUTES_A_PLACE
