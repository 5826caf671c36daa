"""Follows the registry's watches, for ever."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Generic, TypeVar

import grpc.aio

from crosslogic_common.batched import Backoff
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, from_rpc_error
from crosslogic_common.logs import get_logger

Message = TypeVar("Message")


class RegistryWatch(Generic[Message]):
    """Hands on what the registry pushes. While it is away the view stays as it was."""

    def __init__(
        self,
        *,
        name: str,
        open_stream: Callable[[], AsyncIterable[Message]],
        take: Callable[[Message], bool],
        clock: Clock,
        backoff: Backoff,
    ) -> None:
        """`take` takes a message and tells whether the view is whole now."""
        self._name = name
        self._open_stream = open_stream
        self._take = take
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
        task = asyncio.create_task(self._run(), name=f"watch of {self._name}")
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
            self._log.warning("registry watch lost", watch=self._name, reason=reason, retry_s=round(wait_s, 2))
            await asyncio.sleep(wait_s)

    async def _follow(self) -> str:
        """One watch from its opening to its end; says why it ended."""
        try:
            async for message in self._open_stream():
                whole = self._take(message)
                if self._lost_at is not None and whole:
                    self._lost_at = None
                    self._backoff.reset()
                    self._log.info("registry watch runs", watch=self._name)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).private
        except CodedError as error:
            return error.private or error.public
        except Exception:  # noqa: BLE001  # logged, and the watch starts again
            # A message that cannot be taken must not end picking, nor the watch, without a word.
            self._log.exception("registry watch failed", watch=self._name)
            return "a message could not be taken"
        return "the registry ended it"
