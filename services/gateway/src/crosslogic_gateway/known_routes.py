"""The routes that a worker lately used, for while the scheduler is away."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from crosslogic.scheduler.v1 import scheduler_pb2 as scheduler_pb
from crosslogic_common.clock import Clock
from crosslogic_gateway.affinity import key_of
from crosslogic_gateway.domain import Route

MAX_PLACES = 10_000
MAX_ROUTES_A_PLACE = 16
SHARED_EVERY_S = 60.0
"""How often a node that one organisation uses is noted again for all."""

Place = tuple[str, str, str, tuple[str, ...]]
"""Model, organisation, region, all regions allowed (none: any): what decides which nodes may serve."""


class LastKnownRoutes:
    """Nodes that lately served each place, so that a dead scheduler stops nobody (architecture, principle 5)."""

    def __init__(
        self, *, clock: Clock, ejected: Callable[[str], bool] = lambda _node_id: False, max_age_s: float = 600.0
    ) -> None:
        """Routes older than `max_age_s` are not offered: their node has long had other work or none.

        `ejected` tells of a node id whether it failed too often lately.
        """
        self._clock = clock
        self._ejected = ejected
        self._max_age_s = max_age_s
        self._places: OrderedDict[Place, OrderedDict[str, tuple[Route, float]]] = OrderedDict()

    def remember(self, place: Place, picked: scheduler_pb.PickResponse) -> Route:
        """Notes that the node picked serves `place` now; returns its route."""
        routes = self._places.get(place)
        if routes is None:
            routes = self._add(place)
        node_id = picked.node_id
        known = routes.get(node_id)
        # Most picks name a node that was picked before: its route need not be made again.
        route = None if known is None else known[0]
        if (
            route is None
            or route.address != picked.address
            or route.region != picked.region
            or route.region_failover != picked.region_failover
            or route.org_id != picked.node_org_id
            or route.version != picked.model_version
        ):
            route = Route(
                *(node_id, picked.address, picked.region, picked.region_failover, picked.node_org_id),
                version=picked.model_version,
            )
        now = self._clock.monotonic()
        routes[node_id] = (route, now)
        if len(routes) > MAX_ROUTES_A_PLACE:
            routes.popitem(last=False)
        if (known is None or known[0] is not route or now - known[1] > SHARED_EVERY_S) and not (
            route.org_id or route.region_failover
        ):
            self._remember_for_all(_shared(place), route, now)
        return route

    def _remember_for_all(self, place: Place, route: Route, now: float) -> None:
        """A node that serves everybody in its region: also those who were never here."""
        routes = self._places.get(place)
        if routes is None:
            routes = self._add(place)
        routes[route.node_id] = (route, now)
        if len(routes) > MAX_ROUTES_A_PLACE:
            routes.popitem(last=False)

    def _add(self, place: Place) -> OrderedDict[str, tuple[Route, float]]:
        routes = self._places[place] = OrderedDict()
        if len(self._places) > MAX_PLACES:
            self._places.popitem(last=False)
        return routes

    def next(
        self, place: Place, excluded: Iterable[str], session_key: int = 0, version: str | None = None
    ) -> Route | None:
        """A route for `place`: each in its turn, a session's always the same. None: none is known.

        `version` is that of the stream which it goes on with; None: any.

        Ejected nodes are passed over, but never more than half of those known; those of another region come last. Where
        nothing is known of `place`, nodes that serve everybody in its region do.
        """
        found = self._next(place, excluded, session_key, version)
        return found or self._next(_shared(place), excluded, session_key, version)

    def _next(self, place: Place, excluded: Iterable[str], session_key: int, version: str | None) -> Route | None:
        routes = self._places.get(place)
        if routes is None:
            return None
        oldest_allowed = self._clock.monotonic() - self._max_age_s
        for node_id in [node_id for node_id, (_, seen_at) in routes.items() if seen_at < oldest_allowed]:
            del routes[node_id]
        known = [route for route, _ in routes.values() if version is None or route.version == version]
        for group in (
            [route for route in known if not route.region_failover],
            [route for route in known if route.region_failover],
        ):
            left = [route for route in self._sound(group) if route.node_id not in excluded]
            left = left or [route for route in group if route.node_id not in excluded]
            if left:
                chosen = left[0]
                if session_key:
                    chosen = max(left, key=lambda route: key_of(str(session_key), route.node_id))
                routes.move_to_end(chosen.node_id)
                return chosen
        return None

    def _sound(self, group: Sequence[Route]) -> Sequence[Route]:
        sound = [route for route in group if not self._ejected(route.node_id)]
        return sound if 2 * len(sound) >= len(group) else group


def _shared(place: Place) -> Place:
    return place[0], "", place[2], ()
