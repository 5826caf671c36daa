"""The third witness of a node's death: a knock at its own port."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crosslogic_common.errors import CodedError
from crosslogic_common.tls import Channels
from crosslogic_registry.members import Member
from crosslogic_registry.silence_watch import SilenceWatch
from crosslogic_registry.testimony import Probe

PROBE_EVERY_S = 5.0
PROBE_TIMEOUT_S = 3.0
ROUND_EVERY_S = 0.5
MAX_AT_ONCE = 32


class NodeProbe(Protocol):
    """Knocks at nodes."""

    async def probe(self, node_id: str, address: str) -> Probe:
        """What it found; never raises but for a cancel."""


class GrpcProbe:
    """Asks the agent's health service over mutual TLS: only the node itself can answer."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def probe(self, node_id: str, address: str) -> Probe:
        """ALIVE when the node answers, REFUSED when its machine says that nobody listens, else SILENT."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
                writer.transport.abort()
        except ConnectionRefusedError:
            return Probe.REFUSED
        except (OSError, TimeoutError, ValueError):
            return Probe.SILENT
        try:
            stub: health_pb2_grpc.HealthStub = health_pb2_grpc.HealthStub(self._channels.node(node_id, address))
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            # Whatever else it says, it is the node that says it.
            answered = error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return Probe.ALIVE if answered else Probe.SILENT
        except CodedError:
            return Probe.SILENT
        finally:
            with contextlib.suppress(Exception):
                await self._channels.forget_node(node_id, address)
        return Probe.ALIVE


class Prober:
    """Knocks at every node that is not heard of, every few seconds until it is."""

    def __init__(self, *, silence: SilenceWatch, probe: NodeProbe) -> None:
        """`silence` says who is silent, and hears what was found."""
        self._silence = silence
        self._probe = probe
        self._running: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Probes for as long as the block lasts."""
        task = asyncio.create_task(self._rounds(), name="prober")
        try:
            yield
        finally:
            tasks = [task, *self._running.values()]
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def begin_round(self) -> int:
        """Knocks wherever that is due; how many knocks are under way then."""
        for member in self._silence.probe_due(PROBE_EVERY_S):
            if len(self._running) >= MAX_AT_ONCE:
                break
            node_id = member.node.id
            if node_id not in self._running:
                self._running[node_id] = asyncio.create_task(self._knock(member), name=f"probe {node_id}")
        return len(self._running)

    async def _knock(self, member: Member) -> None:
        node_id = member.node.id
        try:
            found = await self._probe.probe(node_id, member.node.facts.address)
            self._silence.probed(member, found)
        finally:
            self._running.pop(node_id, None)

    async def _rounds(self) -> None:
        while True:
            self.begin_round()
            await asyncio.sleep(ROUND_EVERY_S)
