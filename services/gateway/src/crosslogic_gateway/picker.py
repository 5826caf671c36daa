"""Where a request goes: the scheduler's answer, and the last known routes while the scheduler is away."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from crosslogic.scheduler.v1 import scheduler_pb2 as scheduler_pb
from crosslogic_common.batched import BatchedCaller
from crosslogic_common.batched.link import BidiStream
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode, from_call_error
from crosslogic_common.wire import repeated_calls
from crosslogic_gateway.domain import Route

PICK_TIMEOUT_S = 0.5
MAX_PLACES = 10_000
MAX_ROUTES_A_PLACE = 16
READY_S = 0.25
"""How old a pick made ahead may be, and how close requests for a place must follow each other for one to be made."""
REFILL_AFTER_S = 0.002
"""A pick ahead waits until the request that used the one before is on its way."""

Place = tuple[str, str, str]
"""Model, organisation, region: what decides which nodes may serve."""
PickStream = BidiStream[bytes, scheduler_pb.PickStreamResponse]


class LastKnownRoutes:
    """Nodes that lately served each place, so that a dead scheduler stops nobody (architecture, principle 5)."""

    def __init__(self, *, clock: Clock, max_age_s: float = 600.0) -> None:
        """Routes older than `max_age_s` are not offered: their node has long had other work or none."""
        self._clock = clock
        self._max_age_s = max_age_s
        self._places: OrderedDict[Place, OrderedDict[str, tuple[Route, float]]] = OrderedDict()

    def remember(self, place: Place, picked: scheduler_pb.PickResponse) -> Route:
        """Notes that the node picked serves `place` now; returns its route."""
        routes = self._places.get(place)
        if routes is None:
            routes = self._places[place] = OrderedDict()
            if len(self._places) > MAX_PLACES:
                self._places.popitem(last=False)
        node_id = picked.node_id
        known = routes.get(node_id)
        # Most picks name a node that was picked before: its route need not be made again.
        route = None if known is None else known[0]
        if route is None or route.address != picked.address or route.region != picked.region:
            route = Route(node_id, picked.address, picked.region)
        routes[node_id] = (route, self._clock.monotonic())
        if len(routes) > MAX_ROUTES_A_PLACE:
            routes.popitem(last=False)
        return route

    def next(self, place: Place, excluded: Iterable[str]) -> Route | None:
        """A route for `place`, each in its turn. None: none is known."""
        routes = self._places.get(place)
        if routes is None:
            return None
        oldest_allowed = self._clock.monotonic() - self._max_age_s
        for node_id in list(routes):
            route, seen_at = routes[node_id]
            if seen_at < oldest_allowed:
                del routes[node_id]
            elif node_id not in excluded:
                routes.move_to_end(node_id)
                return route
        return None


@dataclass(slots=True)
class _Ready:
    route: Route | None
    at: float
    """When the route was picked; without one, when the place was last asked for."""


class Picker:
    """Picks a node for each request over one long-lived stream.

    While requests are few, the next pick for a place that is in use is made ahead, so that a request need not wait for
    the round trip. While they are many, picks share messages and none is made ahead.
    """

    def __init__(self, *, open_stream: Callable[[], PickStream], clock: Clock) -> None:
        """`open_stream` opens SchedulerService.PickStream."""
        self._clock = clock
        self._last_known = LastKnownRoutes(clock=clock)
        self._ready: OrderedDict[Place, _Ready] = OrderedDict()
        self._refills: set[asyncio.Task[None]] = set()
        self._caller: BatchedCaller[
            bytes,
            scheduler_pb.PickResponse,
            bytes,
            scheduler_pb.PickStreamResponse,
        ] = BatchedCaller(name="scheduler", open_stream=open_stream, encode=repeated_calls, decode=_decode)
        self.picked_from_memory = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the stream open for as long as the block lasts."""
        async with self._caller.running():
            yield

    @property
    def connected(self) -> bool:
        """Whether the scheduler answers."""
        return self._caller.connected.is_set()

    async def pick(
        self, *, model: str, org_id: str, region: str, estimated_tokens: int, excluded: tuple[str, ...] = ()
    ) -> Route:
        """The node that takes the request. Raises NO_CAPACITY when there is none."""
        place = (model, org_id, region)
        if excluded or self._caller.in_flight:
            return await self._ask(place, estimated_tokens, excluded)
        now = self._clock.monotonic()
        ready = self._ready.get(place)
        if ready is None:
            self._remember_use(place, now)
            return await self._ask(place, estimated_tokens, excluded)
        route, in_use = ready.route, now - ready.at <= READY_S
        ready.route, ready.at = None, now
        if in_use:
            asyncio.get_running_loop().call_later(REFILL_AFTER_S, self._refill, place, estimated_tokens)
            if route is not None:
                return route
        return await self._ask(place, estimated_tokens, excluded)

    async def _ask(self, place: Place, estimated_tokens: int, excluded: tuple[str, ...]) -> Route:
        model, org_id, region = place
        try:
            picked = await self._caller.call(
                scheduler_pb.PickRequest(
                    model=model,
                    org_id=org_id,
                    region=region,
                    estimated_tokens=estimated_tokens,
                    excluded_node_ids=excluded,
                ).SerializeToString(),
                timeout_s=PICK_TIMEOUT_S,
            )
        except CodedError as error:
            if error.code not in (ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.OVERLOADED):
                raise
            route = self._last_known.next(place, excluded)
            if route is None:
                raise CodedError(ErrorCode.NO_CAPACITY, private=f"no route in memory and {error.private}") from None
            self.picked_from_memory += 1
            return route
        return self._last_known.remember(place, picked)

    def _remember_use(self, place: Place, now: float) -> None:
        self._ready[place] = _Ready(None, now)
        if len(self._ready) > MAX_PLACES:
            self._ready.popitem(last=False)

    def _refill(self, place: Place, estimated_tokens: int) -> None:
        ready = self._ready.get(place)
        if ready is None or ready.route is not None or self._caller.in_flight or not self.connected:
            return
        task = asyncio.create_task(self._pick_ahead(place, ready, estimated_tokens), name="pick ahead")
        self._refills.add(task)
        task.add_done_callback(self._refills.discard)

    async def _pick_ahead(self, place: Place, ready: _Ready, estimated_tokens: int) -> None:
        with contextlib.suppress(CodedError):
            route = await self._ask(place, estimated_tokens, ())
            ready.route, ready.at = route, self._clock.monotonic()


def _decode(
    message: scheduler_pb.PickStreamResponse,
) -> Iterable[tuple[int, scheduler_pb.PickResponse | CodedError]]:
    for result in message.results:
        if result.HasField("response"):
            yield result.id, result.response
        else:
            yield result.id, from_call_error(result.error)
