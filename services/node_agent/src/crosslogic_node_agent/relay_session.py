"""One gateway worker's stream: its calls, and the writes that carry what gathered of all of them."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode, to_call_error
from crosslogic_common.logs import get_logger
from crosslogic_node_agent.domain import Ending, TokenCount
from crosslogic_node_agent.relay import Relay
from crosslogic_node_agent.relay_call import RelayCall

MAX_FRAMES = 1024
MAX_MESSAGE_BYTES = 1024 * 1024
"""A message ends with the frame that passes this, so that no call waits long behind another's bytes."""
MAX_REFUSALS = 4096
_TICK_S = 0.05


class RelaySession:
    """Runs all calls of one stream."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._calls: dict[int, RelayCall] = {}
        self._ready: deque[RelayCall] = deque()
        self._refusals: deque[pb.RelayResponseFrame] = deque()
        self._wake = asyncio.Event()
        self._log = get_logger(__name__)

    async def run(
        self,
        messages: AsyncIterator[pb.RelayRequest],
        write: Callable[[pb.RelayResponse], Awaitable[None]],
        stopping: asyncio.Event,
    ) -> None:
        """Serves until the gateway ends the stream, or `stopping` is set and no call is left."""
        tasks = [
            asyncio.create_task(self._read(messages), name="relay read"),
            asyncio.create_task(self._write(write), name="relay write"),
            asyncio.create_task(self._until_drained(stopping), name="relay drain"),
            asyncio.create_task(self._watch_time(), name="relay watch"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            self._abandon_all()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, messages: AsyncIterator[pb.RelayRequest]) -> None:
        async for message in messages:
            for frame in message.frames:
                self._take(frame)
            if len(self._refusals) > MAX_REFUSALS:
                raise CodedError(ErrorCode.OVERLOADED, private="the gateway does not read its refusals")

    def _take(self, frame: pb.RelayRequestFrame) -> None:
        kind = frame.WhichOneof("kind")
        if kind == "open":
            self._open(frame.call_id, frame.open)
            return
        call = self._calls.get(frame.call_id)
        if call is None:
            return
        if kind == "credit_bytes":
            call.add_credit(frame.credit_bytes)
        elif kind == "cancel":
            call.cancel()
        elif kind == "supersede":
            call.abandon(CodedError(ErrorCode.UNAVAILABLE, private="another node took the request over"))

    def _open(self, call_id: int, request: pb.RelayOpen) -> None:
        if call_id in self._calls:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"Call {call_id} is under way already.", param="call_id")
        try:
            call = self._relay.call(call_id, request, on_ready=self._on_ready, on_ended=self._on_ended)
        except CodedError as error:
            if error.private:
                self._log.info("call refused", code=error.code, reason=error.private)
            self._refusals.append(refusal(call_id, error))
            self._wake.set()
            return
        self._calls[call_id] = call
        call.start()

    def _on_ready(self, call: RelayCall) -> None:
        if not call.output.queued:
            call.output.queued = True
            self._ready.append(call)
            self._wake.set()

    def _on_ended(self, call: RelayCall, count: TokenCount, ending: Ending) -> None:
        self._relay.ended(call, count, ending)

    async def _write(self, write: Callable[[pb.RelayResponse], Awaitable[None]]) -> None:
        wake = self._wake
        while True:
            if not self._ready and not self._refusals:
                wake.clear()
                await wake.wait()
                # What arrived for other calls at the same moment goes along: one turn of the loop, no timer.
                await asyncio.sleep(0)
            await write(pb.RelayResponse(frames=self._gather()))

    def _gather(self) -> list[pb.RelayResponseFrame]:
        frames: list[pb.RelayResponseFrame] = []
        size = 0
        while self._refusals and len(frames) < MAX_FRAMES:
            frames.append(self._refusals.popleft())
        while self._ready and len(frames) < MAX_FRAMES and size < MAX_MESSAGE_BYTES:
            call = self._ready.popleft()
            size += call.output.byte_count
            frames.append(call.output.take_frame())
            if call.ended:
                del self._calls[call.call_id]
        return frames

    async def _watch_time(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            for call in list(self._calls.values()):
                call.check_time(now)

    async def _until_drained(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        while self._calls or self._refusals:  # once in a stream's life; an event would cost each call
            await asyncio.sleep(0.02)
        # The last message was handed to the transport; it goes out before the end of the stream does.
        await asyncio.sleep(0.02)

    def _abandon_all(self) -> None:
        for call in list(self._calls.values()):
            with contextlib.suppress(CodedError):
                call.abandon(CodedError(ErrorCode.UNAVAILABLE, private="the stream to the gateway broke"))
        self._calls.clear()
        self._ready.clear()


def refusal(call_id: int, error: CodedError) -> pb.RelayResponseFrame:
    """The only frame of a call that never reached the engine."""
    # As an engine's own answer it is final and counts against no node: a client must not get one set aside by asking.
    absent = error.code is ErrorCode.NOT_SUPPORTED
    return pb.RelayResponseFrame(
        call_id=call_id,
        head=pb.RelayHead(status=404, content_type="application/json") if absent else None,
        end=pb.RelayEnd(
            outcome=common_pb.OUTCOME_FAILED,
            usage=common_pb.TokenUsage(source=common_pb.COUNT_SOURCE_NONE),
            error=to_call_error(error),
        ),
    )
