"""Tells the scheduler what this worker uses of each lane, and the gate what it may use."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic_common.batched import BatchLink
from crosslogic_common.batched.link import BidiStream
from crosslogic_common.errors import CodedError
from crosslogic_gateway.shedding.gate import Gate, Lane, LaneKey

REFRESH_S = 1.0
REFRESH_WAITING_S = 0.1
"""Another worker may have left room for those that wait here."""
PAUSE_S = 0.05
PAUSE_WAITING_S = 0.02
"""While requests wait for their turn, room is asked for more often."""
MENTIONED_S = 5.0
"""How long a lane is told of that nothing is under way in."""
LaneStream = BidiStream[bytes, pb.LaneStreamResponse]


class LaneLink:
    """One stream to the scheduler. While it is away lanes keep their limits."""

    def __init__(
        self,
        *,
        gate: Gate,
        nodes: Callable[[], Mapping[str, int]],
        open_stream: Callable[[], LaneStream],
        now: Callable[[], float],
    ) -> None:
        """`nodes` tells how many requests each node works on; `open_stream` opens SchedulerService.LaneStream.

        `now` is the event loop's clock.
        """
        self._gate = gate
        self._nodes = nodes
        self._now = now
        self._dirty = asyncio.Event()
        gate.changed = self._dirty.set
        self._link: BatchLink[bytes, bytes, pb.LaneStreamResponse] = BatchLink(
            name="lanes",
            open_stream=open_stream,
            # Each message is the whole state: the last one says it all.
            encode=lambda messages: messages[-1],
            on_message=self._take,
            on_broken=_ignore,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tells for as long as the block lasts."""
        async with self._link.running():
            task = asyncio.create_task(self._tell(), name="lanes")
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _tell(self) -> None:
        told = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_WAITING_S if self._gate.waiting else REFRESH_S):
                    await self._dirty.wait()
            if not self._gate.hurried:
                # Not in the way of the request that is about to be sent to a node.
                await asyncio.sleep(PAUSE_S)
            self._dirty.clear()
            uses = self._uses()
            if self._link.connected.is_set() and (uses or told):
                with contextlib.suppress(CodedError):
                    self._link.send(pb.LaneStreamRequest(uses=uses, nodes=self._node_uses()).SerializeToString())
                told = bool(uses)
            if self._gate.hurried:
                await asyncio.sleep(PAUSE_WAITING_S)

    def _uses(self) -> list[pb.LaneUse]:
        recent = self._now() - MENTIONED_S
        return [
            use_of(lane) for lane in self._gate.lanes if lane.used_at > recent or lane.reservations or not lane.idle
        ]

    def _node_uses(self) -> list[pb.NodeUse]:
        return [pb.NodeUse(node_id=node_id, in_flight=in_flight) for node_id, in_flight in self._nodes().items()]

    def _take(self, message: pb.LaneStreamResponse) -> None:
        for share in message.shares:
            self._gate.limit(
                LaneKey(share.model, share.region, share.org_id),
                share.limit if share.HasField("limit") else None,
                frozenset(share.dedicated_org_ids),
            )


def use_of(lane: Lane) -> pb.LaneUse:
    """A lane in the scheduler's words."""
    key, queue = lane.key, lane.queue
    return pb.LaneUse(
        model=key.model,
        region=key.region,
        org_id=key.org_id,
        in_flight=max(queue.in_flight, 0),
        ended_per_sec=lane.ended_per_s,
        waiting=len(queue),
        reserved_in_flight=max(lane.reserved_in_flight, 0),
        reservations=[
            pb.LaneReservation(org_id=org_id, capacity_units=units) for org_id, (units, _) in lane.reservations.items()
        ],
    )


def _ignore(_error: CodedError) -> None:
    """The limits stay as they are."""
