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
from crosslogic_common.wire import repeated_calls, repeated_messages
from crosslogic_gateway.affinity import NO_HINTS, PickHints
from crosslogic_gateway.domain import Route
from crosslogic_gateway.known_routes import MAX_PLACES, LastKnownRoutes, Place
from crosslogic_gateway.node_reports import NodeReports

PICK_TIMEOUT_S = 0.5
HANGS_S = 1.0
"""After a pick that got no answer in time, so long all others are made from memory at once."""
READY_S = 0.25
"""How old a pick made ahead may be, and how close requests for a place must follow each other for one to be made."""
REFILL_AFTER_S = 0.002
"""A pick ahead waits until the request that used the one before is on its way."""

_Tokens = tuple[int, int]
"""Prompt and answer together, the prompt alone."""
PickStream = BidiStream[bytes, scheduler_pb.PickStreamResponse]


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
        self.reports = NodeReports(tell=lambda told: self._caller.tell(told.SerializeToString()), clock=clock)
        """Where what became of requests is told, node by node."""
        self._last_known = LastKnownRoutes(clock=clock, ejected=self.reports.ejected)
        self._ready: OrderedDict[Place, _Ready] = OrderedDict()
        self._refills: set[asyncio.Task[None]] = set()
        self._caller: BatchedCaller[
            bytes,
            scheduler_pb.PickResponse,
            bytes,
            scheduler_pb.PickStreamResponse,
        ] = BatchedCaller(name="scheduler", open_stream=open_stream, encode=_encode, decode=_decode)
        self._hangs_until = 0.0
        """While the scheduler hangs: until when nobody waits for it. 0: it does not."""
        self.picked_from_memory = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the stream open for as long as the block lasts."""
        async with self._caller.running():
            try:
                yield
            finally:
                self.reports.close()

    @property
    def connected(self) -> bool:
        """Whether the scheduler answers."""
        return self._caller.connected.is_set()

    async def pick(
        self,
        *,
        model: str,
        org_id: str,
        region: str,
        estimated_tokens: int,
        prompt_tokens: int = 0,
        excluded: tuple[str, ...] = (),
        hints: PickHints = NO_HINTS,
        version: str | None = None,
    ) -> Route:
        """The node that takes the request. Raises NO_CAPACITY when there is none.

        `estimated_tokens` are the prompt's and the most that may be generated, `prompt_tokens` the prompt's alone.
        `version` is that of the nodes that began the stream which it goes on with; None: it begins here.
        """
        tokens = (estimated_tokens, prompt_tokens)
        place = (model, org_id, region, hints.allowed_regions)
        if excluded or hints.personal or version is not None or self._caller.in_flight:
            return await self._ask(place, tokens, excluded, hints, version)
        now = self._clock.monotonic()
        ready = self._ready.get(place)
        if ready is None:
            self._remember_use(place, now)
            return await self._ask(place, tokens, excluded, hints)
        route, in_use = ready.route, now - ready.at <= READY_S
        ready.route, ready.at = None, now
        if in_use:
            asyncio.get_running_loop().call_later(REFILL_AFTER_S, self._refill, place, tokens, hints)
            if route is not None:
                return route
        return await self._ask(place, tokens, excluded, hints)

    async def _ask(
        self, place: Place, tokens: _Tokens, excluded: tuple[str, ...], hints: PickHints, version: str | None = None
    ) -> Route:
        if self._hangs_until:
            now = self._clock.monotonic()
            if now < self._hangs_until and (route := self._from_memory(place, excluded, hints, version)):
                return route
            # One request finds out whether it still hangs; the others need not wait with it.
            self._hangs_until = now + PICK_TIMEOUT_S + HANGS_S
        try:
            request = self._told(_request(place, tokens, excluded, hints, version))
            picked = await self._caller.call(request, timeout_s=PICK_TIMEOUT_S)
        except CodedError as error:
            if error.code not in (ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.OVERLOADED):
                raise
            if error.code is ErrorCode.TIMEOUT:
                self._hangs_until = self._clock.monotonic() + HANGS_S
            route = self._from_memory(place, excluded, hints, version)
            if route is None:
                raise CodedError(ErrorCode.NO_CAPACITY, private=f"no route in memory and {error.private}") from None
            return route
        self._hangs_until = 0.0
        return self._last_known.remember(place, picked)

    def _from_memory(
        self, place: Place, excluded: tuple[str, ...], hints: PickHints, version: str | None
    ) -> Route | None:
        route = self._last_known.next(place, excluded, hints.session_key, version)
        if route is not None:
            self.picked_from_memory += 1
        return route

    def _remember_use(self, place: Place, now: float) -> None:
        self._ready[place] = _Ready(None, now)
        if len(self._ready) > MAX_PLACES:
            self._ready.popitem(last=False)

    def _refill(self, place: Place, tokens: _Tokens, hints: PickHints) -> None:
        ready = self._ready.get(place)
        if ready is None or ready.route is not None or self._caller.in_flight or not self.connected:
            return
        task = asyncio.create_task(self._pick_ahead(place, ready, tokens, hints), name="pick ahead")
        self._refills.add(task)
        task.add_done_callback(self._refills.discard)

    def _told(self, request: bytes) -> bytes:
        """The question as it is sent."""
        return request

    async def _pick_ahead(self, place: Place, ready: _Ready, tokens: _Tokens, hints: PickHints) -> None:
        with contextlib.suppress(CodedError):
            route = await self._ask(place, tokens, (), hints)
            # Who goes to another region while one is down is each client's own matter.
            if not route.region_failover:
                ready.route, ready.at = route, self._clock.monotonic()


def _request(place: Place, tokens: _Tokens, excluded: tuple[str, ...], hints: PickHints, version: str | None) -> bytes:
    """A PickRequest, serialised."""
    model, org_id, region, allowed_regions = place
    request = scheduler_pb.PickRequest(
        model=model,
        org_id=org_id,
        region=region,
        estimated_tokens=tokens[0],
        prompt_tokens=tokens[1],
        client_key=hints.client_key,
    )
    # What most requests have not costs nothing.
    if excluded:
        request.excluded_node_ids.extend(excluded)
    if allowed_regions:
        request.allowed_regions.extend(allowed_regions)
        request.residency_pinned = allowed_regions == (region,)
    if hints.personal:
        request.session_key = hints.session_key
        request.prefix_hashes.extend(hints.prefix_hashes)
        request.reserved = hints.reserved
    if version is not None:
        request.model_version = version
    return request.SerializeToString()


def _encode(calls: list[tuple[int, bytes]]) -> bytes:
    """A PickStreamRequest: calls have numbers, what is only told has 0."""
    told = [serialised for call_id, serialised in calls if not call_id]
    if not told:
        return repeated_calls(calls)
    return repeated_calls([call for call in calls if call[0]]) + repeated_messages(told, field=2)


def _decode(
    message: scheduler_pb.PickStreamResponse,
) -> Iterable[tuple[int, scheduler_pb.PickResponse | CodedError]]:
    for result in message.results:
        if result.HasField("response"):
            yield result.id, result.response
        else:
            yield result.id, from_call_error(result.error)
