"""Follows the registry's watch, for ever."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc.aio

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic.registry.v1 import registry_pb2_grpc as registry_rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_scheduler.fleet import FleetView


class RegistryWatch:
    """Feeds the view. While the registry is away the view stays as it was."""

    def __init__(self, *, channels: Channels, target: str, view: FleetView, clock: Clock, backoff: Backoff) -> None:
        """`target` is the registry's host:port."""
        self._channels = channels
        self._target = target
        self._view = view
        self._clock = clock
        self._backoff = backoff
        self._log = get_logger(__name__)
        self._lost_at: float | None = clock.monotonic()

    def stale_s(self) -> float:
        """Seconds since the watch was lost, or since the start if it never ran; 0 while it runs."""
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
        while True:
            reason = await self._follow()
            if self._lost_at is None:
                self._lost_at = self._clock.monotonic()
            wait_s = self._backoff.next_s()
            self._log.warning("registry watch lost", reason=reason, retry_s=round(wait_s, 2), nodes=len(self._view))
            await asyncio.sleep(wait_s)

    async def _follow(self) -> str:
        """One watch from its opening to its end; says why it ended."""
        try:
            stub = registry_rpc.RegistryServiceStub(self._channels.service("registry", self._target))
            async for message in stub.WatchNodes(registry_pb.WatchNodesRequest()):
                self._view.apply(message)
                if self._lost_at is not None and self._view.known:
                    self._lost_at = None
                    self._backoff.reset()
                    self._log.info("registry watch runs", nodes=len(self._view))
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).private
        except CodedError as error:
            return error.private or error.public
        except Exception:  # noqa: BLE001  # logged, and the watch starts again
            # A message that cannot be taken must not end picking, nor the watch, without a word.
            self._log.exception("registry watch failed")
            return "a message could not be taken"
        return "the registry ended it"
