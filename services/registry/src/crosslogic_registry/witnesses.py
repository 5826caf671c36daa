"""Witnesses on their way from nodes to the accountant.

Witnesses of all nodes gather while calls to the accountant are under way; the next call carries them all. A node is
told only what is final: durable, or refused for good. While the accountant is away nodes wait, and after a while their
streams end, so that the waiting is done by the nodes, which keep what was not acknowledged.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence

import grpc.aio

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_registry.observations import Observations
from crosslogic_registry.ports import WitnessSink

MAX_WITNESS_BYTES = 4_096
MAX_A_CALL = 512
MAX_CALLS = 4
MAX_WAITING = 20_000
PATIENCE_S = 20.0
"""Less than agents wait for an acknowledgement, so that none sends a second one beside the first."""
_FINAL = frozenset({ErrorCode.INVALID_ARGUMENT, ErrorCode.NOT_SUPPORTED, ErrorCode.REQUEST_TOO_LARGE})

Waiting = tuple[pb.Witness, "asyncio.Future[str]"]


class AccountantAwayError(Exception):
    """Witnesses could not be handed on for so long that their nodes must keep them."""


class AccountantWitnesses:
    """The accountant, as the place where witnesses become durable."""

    def __init__(self, *, channels: Channels, target: str, timeout_s: float = 15.0) -> None:
        """`target` is the accountant's host:port."""
        self._channels = channels
        self._target = target
        self._timeout_s = timeout_s

    async def record(self, witnesses: Sequence[pb.Witness]) -> list[str]:
        """One entry a witness: empty when durable, else why it was refused for good. Raises CodedError."""
        stub = rpc.AccountantServiceStub(self._channels.service("accountant", self._target))
        try:
            response = await stub.RecordWitnesses(
                pb.RecordWitnessesRequest(witnesses=witnesses), timeout=self._timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return list(response.refused_reasons)


class WitnessForwarder:
    """Hands witnesses on and answers only once they are durable."""

    def __init__(
        self,
        *,
        sink: WitnessSink,
        observations: Observations,
        patience_s: float = PATIENCE_S,
        max_waiting: int = MAX_WAITING,
        backoff_cap_s: float = 5.0,
    ) -> None:
        """A witness waits at most `patience_s`, and at most `max_waiting` of them do."""
        self._sink = sink
        self._observations = observations
        self._patience_s = patience_s
        self._max_waiting = max_waiting
        self._backoff_cap_s = backoff_cap_s
        self._queue: deque[Waiting] = deque()
        self._filled = asyncio.Event()
        self._log = get_logger(__name__)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hands on for as long as the block lasts."""
        tasks = [asyncio.create_task(self._hand_on(), name=f"witnesses {number}") for number in range(MAX_CALLS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def forward(self, node_id: str, witnesses: Sequence[pb.Witness]) -> list[str]:
        """One entry a witness: empty when durable, else why it was refused for good.

        The node's name is written by us. Raises AccountantAwayError when they waited too long or too many wait.
        """
        if len(self._queue) + len(witnesses) > self._max_waiting:
            raise AccountantAwayError
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[str]] = []
        for witness in witnesses:
            future: asyncio.Future[str] = loop.create_future()
            futures.append(future)
            if witness.ByteSize() > MAX_WITNESS_BYTES:
                future.set_result(f"a witness has at most {MAX_WITNESS_BYTES} bytes")
                self._observations.witnesses.labels("refused").inc()
                continue
            witness.node_id = node_id
            self._queue.append((witness, future))
        self._filled.set()
        self._observations.waiting_witnesses.set(len(self._queue))
        try:
            async with asyncio.timeout(self._patience_s):
                return [await future for future in futures]
        except TimeoutError:
            raise AccountantAwayError from None
        finally:
            for future in futures:
                future.cancel()

    async def _hand_on(self) -> None:
        backoff = Backoff(cap_s=self._backoff_cap_s)
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            batch = self._take()
            if not batch:
                continue
            try:
                await self._record(batch)
                backoff.reset()
            except CodedError as error:
                self._queue.extendleft(reversed(batch))
                self._log.warning(
                    "witnesses wait for the accountant", waiting=len(self._queue), reason=error.private or error.public
                )
                await asyncio.sleep(backoff.next_s())

    def _take(self) -> list[Waiting]:
        """What waits, without those whose nodes have given up."""
        batch: list[Waiting] = []
        while self._queue and len(batch) < MAX_A_CALL:
            waiting = self._queue.popleft()
            if not waiting[1].done():
                batch.append(waiting)
        self._observations.waiting_witnesses.set(len(self._queue))
        return batch

    async def _record(self, batch: Sequence[Waiting]) -> None:
        try:
            refusals = await self._sink.record([witness for witness, _ in batch])
        except CodedError as error:
            if error.code not in _FINAL:
                raise
            if len(batch) > 1:
                # One of them is at fault: half and half until it stands alone, so that it holds up nobody else.
                middle = len(batch) // 2
                await self._record(batch[:middle])
                await self._record(batch[middle:])
                return
            refusals = [str(error.code)]
        if len(refusals) != len(batch):
            raise CodedError(ErrorCode.INTERNAL, private=f"{len(refusals)} answers to {len(batch)} witnesses")
        for (_, future), refusal in zip(batch, refusals, strict=True):
            if not future.done():
                future.set_result(refusal)
            self._observations.witnesses.labels("refused" if refusal else "durable").inc()
