"""Shedding of one worker, put together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from redis.asyncio import Redis

from crosslogic_gateway.shedding.domain import Rank
from crosslogic_gateway.shedding.gate import Gate
from crosslogic_gateway.shedding.lag import LoopLag
from crosslogic_gateway.shedding.lane_link import LaneLink, LaneStream
from crosslogic_gateway.shedding.overload import Overload
from crosslogic_gateway.shedding.reserved import RedisBuckets, ReservedMeters


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadOptions:
    """How shedding of one worker is set up."""

    queue_wait_s: float
    """How long a request may wait for its turn, unless it says otherwise."""
    shed_lag_s: float
    """Lag of the event loop from which the lowest priority is refused."""
    workers: int
    """At least so many share reserved capacity while Redis is away."""


@dataclass(frozen=True, slots=True)
class RunningOverload:
    """What runs."""

    overload: Overload
    gate: Gate
    meters: ReservedMeters

    @property
    def away(self) -> bool:
        """Redis does not answer: reserved capacity is metered by each worker alone."""
        return self.meters.away


@contextlib.asynccontextmanager
async def running_overload(
    options: OverloadOptions,
    *,
    redis: Redis,
    nodes: Callable[[], Mapping[str, int]],
    open_stream: Callable[[], LaneStream],
    registry: CollectorRegistry,
) -> AsyncIterator[RunningOverload]:
    """Runs shedding for as long as the block lasts.

    `nodes` tells how many requests each node works on, `open_stream` opens SchedulerService.LaneStream.
    """
    now = asyncio.get_running_loop().time
    gate = Gate(lag=LoopLag(shed_from_s=options.shed_lag_s), now=now)
    meters = ReservedMeters(RedisBuckets(redis), now=now, workers=options.workers)
    link = LaneLink(gate=gate, nodes=nodes, open_stream=open_stream, now=now)
    registry.register(_GateCounts(gate))
    for name, text, read in (
        ("crosslogic_lane_waiting", "Requests that wait for a place at a node.", lambda: gate.waiting),
        ("crosslogic_lanes", "Models and regions that requests lately asked for.", lambda: sum(1 for _ in gate.lanes)),
    ):
        Gauge(name, text, registry=registry).set_function(read)
    async with gate.running(), meters.running(), link.running():
        overload = Overload(gate=gate, meters=meters, queue_wait_s=options.queue_wait_s)
        yield RunningOverload(overload, gate, meters)


class _GateCounts(Collector):
    """Counts that the gate keeps as plain numbers, since each request may add to them."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def collect(self) -> list[CounterMetricFamily]:
        """What they are now."""
        shed = CounterMetricFamily(
            "crosslogic_shed", "Requests refused for lack of room, by priority.", labels=["priority"]
        )
        for rank in Rank:
            shed.add_metric([rank.name.lower()], self._gate.refused[rank])
        queued = CounterMetricFamily("crosslogic_queued", "Requests that had to wait for a place at a node.")
        queued.add_metric([], self._gate.queued)
        return [shed, queued]
