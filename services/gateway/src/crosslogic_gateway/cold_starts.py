"""Requests for a model that no node serves: they wait, within bounds, for a machine that its deployment launches."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import grpc.aio

from crosslogic.orchestrator.v1 import deployments_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_gateway.domain import Route

REPORT_S = 1.0
POLL_S = 0.25
RPC_S = 2.0
FORGET_S = 5.0
"""So long nobody asks again for a model that nothing is launched for."""
MAX_PLACES = 1_000


class Deployments(Protocol):
    """crosslogic.orchestrator.v1.DeploymentService, as far as requests need it."""

    @property
    def ReportWaiting(self) -> Callable[..., Awaitable[pb.ReportWaitingResponse]]:
        """Says that requests wait."""


@dataclass(slots=True)
class _Place:
    """A model in a region."""

    waiting: int = 0
    told: pb.ReportWaitingResponse = field(default_factory=pb.ReportWaitingResponse)
    told_at: float = float("-inf")
    asking: "asyncio.Task[None] | None" = None


class ColdStarts:
    """Holds requests of one gateway worker."""

    def __init__(
        self,
        *,
        deployments: Callable[[], Deployments],
        reporter: str,
        monotonic: Callable[[], float],
        poll_s: float = POLL_S,
    ) -> None:
        """`reporter` names this worker to the orchestrator; nodes are looked for every `poll_s`."""
        self._deployments = deployments
        self._reporter = reporter
        self._monotonic = monotonic
        self._poll_s = poll_s
        self._places: OrderedDict[tuple[str, str], _Place] = OrderedDict()
        self._log = get_logger(__name__)

    async def wait(
        self, *, model: str, region: str, refused: CodedError, pick: Callable[[], Awaitable[Route]]
    ) -> Route:
        """The route once there is one. Raises `refused`, with how long to wait, where there is none in time."""
        began = self._monotonic()
        place = self._place(model, region)
        place.waiting += 1
        position = place.waiting
        try:
            while True:
                await self._ask(place, model, region)
                told = place.told
                bound_s = told.max_wait.ToMilliseconds() / 1_000
                waited_s = self._monotonic() - began
                if waited_s >= bound_s or position > told.max_waiting:
                    if bound_s > 0:
                        # Whoever waited knows that a machine is on its way, and is told when it may be there.
                        left_s = told.expected_start.ToMilliseconds() / 1_000 - waited_s
                        refused.retry_after_s = max(1.0, left_s)
                    raise refused
                await asyncio.sleep(min(self._poll_s, bound_s - waited_s))
                try:
                    return await pick()
                except CodedError as error:
                    if error.code is not ErrorCode.NO_CAPACITY:
                        raise
        finally:
            place.waiting -= 1

    def _place(self, model: str, region: str) -> _Place:
        place = self._places.get((model, region))
        if place is None:
            place = self._places[model, region] = _Place()
            if len(self._places) > MAX_PLACES:
                # Whoever waits there holds it still.
                self._places.popitem(last=False)
        return place

    async def _ask(self, place: _Place, model: str, region: str) -> None:
        """Tells of those that wait, one call at a time for all of them, and no oftener than needed."""
        known_s = REPORT_S if place.told.max_wait.ToMilliseconds() else FORGET_S
        if self._monotonic() - place.told_at < known_s:
            return
        if place.asking is None:
            place.asking = asyncio.create_task(self._tell(place, model, region), name="report waiting requests")
        # Whoever leaves does not take the call of the others along.
        await asyncio.shield(place.asking)

    async def _tell(self, place: _Place, model: str, region: str) -> None:
        request = pb.ReportWaitingRequest(model=model, region=region, waiting=place.waiting, reporter=self._reporter)
        try:
            place.told = await self._deployments().ReportWaiting(request, timeout=RPC_S)
        except grpc.aio.AioRpcError as error:
            # What was last said holds: those that wait go on, and nobody new waits for what was never promised.
            self._log.warning("the orchestrator does not answer", reason=error.details())
        finally:
            place.told_at = self._monotonic()
            place.asking = None
