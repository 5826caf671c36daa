"""Follows the registry's watch, for ever."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc.aio

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic.registry.v1 import registry_pb2_grpc as registry_rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.clock import Clock
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_scheduler.fleet import FleetView


class RegistryWatch:
    """Feeds the view. While the registry is away the view stays as it was."""

    def __init__(self, *, channels: Channels, target: str, view: FleetView, clock: Clock) -> None:
        """`target` is the registry's host:port."""
        self._channels = channels
        self._target = target
        self._view = view
        self._clock = clock
        self._log = get_logger(__name__)
        self._lost_at: float | None = clock.monotonic()

    def stale_s(self) -> float:
        """Seconds since the watch was lost; 0 while it runs."""
        return 0.0 if self._lost_at is None else self._clock.monotonic() - self._lost_at

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watches for as long as the block lasts."""
        task = asyncio.create_task(self._run(), name="registry watch")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        backoff = Backoff(cap_s=2.0)
        while True:
            try:
                stub = registry_rpc.RegistryServiceStub(self._channels.service("registry", self._target))
                async for message in stub.WatchNodes(registry_pb.WatchNodesRequest()):
                    self._view.apply(message)
                    self._lost_at = None
                    backoff.reset()
            except grpc.aio.AioRpcError as error:
                self._log.warning("registry watch lost", reason=from_rpc_error(error).private)
            if self._lost_at is None:
                self._lost_at = self._clock.monotonic()
            await asyncio.sleep(backoff.next_s())
