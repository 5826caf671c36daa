"""This worker's word to the registry: where its tunnel is, and which nodes it hears (ADR 22 and 23)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple

import grpc.aio

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic.scheduler.v1 import scheduler_pb2 as scheduler_pb
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import CodedError, from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels

MAX_OBSERVATIONS = 4_096
LEAST_PAUSE_S = 0.2
ANSWER_S = 15.0


class _Seen(NamedTuple):
    """What became of requests on one node, not told yet."""

    succeeded: int = 0
    failed: int = 0
    first_byte_us: int = 0
    first_bytes: int = 0


_NOTHING = _Seen()


class RegistryLink:
    """One stream to the registry, opened again for ever; requests do not depend on it."""

    def __init__(
        self,
        *,
        channels: Channels,
        target: str,
        tunnel_address: str,
        heard: Callable[[], Iterable[tuple[str, float]]],
    ) -> None:
        """`heard` gives nodes with the time (of the event loop) at which their last byte came, 0 for never.

        `tunnel_address`: host:port of this worker's tunnel; empty: it offers none.
        """
        self._channels = channels
        self._target = target
        self._tunnel_address = tunnel_address
        self._heard = heard
        self._told_heard: dict[str, float] = {}
        self._outcomes: dict[str, _Seen] = {}
        self._log = get_logger(__name__)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tells the registry for as long as the block lasts."""
        task = asyncio.create_task(self._live(), name="registry link")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def note(self, outcomes: scheduler_pb.NodeOutcomes, first_bytes: int) -> None:
        """What became of requests on a node; told with the next message.

        Of `first_bytes` of them the time to the first byte is known.
        """
        known = self._outcomes.get(outcomes.node_id)
        if known is None:
            if len(self._outcomes) >= MAX_OBSERVATIONS:
                return
            known = _NOTHING
        self._outcomes[outcomes.node_id] = _Seen(
            known.succeeded + outcomes.succeeded,
            known.failed + outcomes.failed,
            known.first_byte_us + outcomes.first_byte_us_total,
            known.first_bytes + first_bytes,
        )

    def observations(self, now: float) -> list[pb.NodeObservation]:
        """What there is to tell since the last time."""
        heard = {node_id: at for node_id, at in self._heard() if at and at > self._told_heard.get(node_id, 0.0)}
        outcomes, self._outcomes = self._outcomes, {}
        self._told_heard = dict(list((self._told_heard | heard).items())[-MAX_OBSERVATIONS:])
        told = []
        for node_id in list(heard | outcomes)[:MAX_OBSERVATIONS]:
            seen = outcomes.get(node_id, _NOTHING)
            at = heard.get(node_id)
            told.append(
                pb.NodeObservation(
                    node_id=node_id,
                    heard_ms_ago_plus_one=0 if at is None else max(round((now - at) * 1000), 0) + 1,
                    succeeded=seen.succeeded,
                    failed=seen.failed,
                    first_byte_us_total=seen.first_byte_us,
                    first_bytes=seen.first_bytes,
                )
            )
        return told

    async def _live(self) -> None:
        backoff = Backoff(cap_s=2.0)
        while True:
            reason = "the registry ended the stream"
            try:
                await self._live_once(backoff)
            except grpc.aio.AioRpcError as error:
                reason = from_rpc_error(error).private
            except CodedError as error:
                reason = error.private or error.public
            except TimeoutError:
                reason = "no answer in time"
            except asyncio.InvalidStateError as error:
                reason = str(error)
            self._log.warning("registry not told of nodes, trying again", reason=reason)
            await asyncio.sleep(backoff.next_s())

    async def _live_once(self, backoff: Backoff) -> None:
        stub: rpc.RegistryServiceAsyncStub = rpc.RegistryServiceStub(self._channels.service("registry", self._target))
        call = stub.GatewayStream()
        loop = asyncio.get_running_loop()
        try:
            message = pb.GatewayStreamRequest(tunnel_address=self._tunnel_address)
            while True:
                async with asyncio.timeout(ANSWER_S):
                    await call.write(message)
                    answer = await call.read()
                if not isinstance(answer, pb.GatewayStreamResponse):
                    return
                backoff.reset()
                await asyncio.sleep(max(answer.next_report_ms / 1000, LEAST_PAUSE_S))
                message = pb.GatewayStreamRequest(observations=self.observations(loop.time()))
        finally:
            call.cancel()
