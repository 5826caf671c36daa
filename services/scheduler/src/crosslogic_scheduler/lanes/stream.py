"""LaneStream: protobuf to lanes and back."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic_scheduler.lanes.lanes import Gateway, Lane, Lanes
from crosslogic_scheduler.lanes.shares import Use

MAX_LANES = 4_096
MAX_RESERVATIONS = 1_000
MAX_NODES = 4_096


async def serve_lanes(
    requests: AsyncIterator[pb.LaneStreamRequest],
    write: Callable[[pb.LaneStreamResponse], Awaitable[None]],
    *,
    lanes: Lanes,
    stopping: asyncio.Event,
) -> None:
    """Answers each message of one gateway until its stream ends or the server stops."""
    gateway = lanes.join()
    reader = asyncio.current_task()
    stop = asyncio.create_task(_cancel_when(stopping, reader), name="lanes stop")
    try:
        async for message in requests:
            await write(answer(lanes, gateway, message))
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
    finally:
        stop.cancel()
        lanes.leave(gateway)


def answer(lanes: Lanes, gateway: Gateway, message: pb.LaneStreamRequest) -> pb.LaneStreamResponse:
    """Takes what a gateway uses, and tells what it may."""
    uses = {
        Lane(told.model, told.region, told.org_id): Use(
            in_flight=told.in_flight,
            ended_per_s=told.ended_per_sec if 0 < told.ended_per_sec < math.inf else 0.0,
            waiting=told.waiting,
            reserved_in_flight=told.reserved_in_flight,
            reservations={one.org_id: one.capacity_units for one in told.reservations[:MAX_RESERVATIONS]},
        )
        for told in message.uses[:MAX_LANES]
    }
    lanes.tell(gateway, uses, {node.node_id: node.in_flight for node in message.nodes[:MAX_NODES]})
    response = pb.LaneStreamResponse()
    for lane in uses:
        share = response.shares.add(model=lane.model, region=lane.region, org_id=lane.org_id)
        limit = lanes.limit(gateway, lane)
        if limit is not None:
            share.limit = limit
        share.dedicated_org_ids.extend(lanes.dedicated(lane))
    return response


async def _cancel_when(stopping: asyncio.Event, reader: "asyncio.Task[None] | None") -> None:
    await stopping.wait()
    if reader is not None:
        reader.cancel()
