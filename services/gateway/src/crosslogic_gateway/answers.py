"""What becomes of a relayed call's frames: a whole answer is gathered, a stream is written through.

Both are driven by the relay link from the event loop, one call a frame, with no task switch: that is what a streamed
token costs.
"""

import asyncio
from typing import Protocol

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.errors import CodedError, ErrorCode, from_call_error
from crosslogic_gateway.resumption import ID_BYTES, Relayed

CREDIT_STEP_BYTES = 64 * 1024
"""Bytes that are taken from a call before the node is told that as many more may follow."""
KEEP_ALIVE_S = 15.0
"""A stream that says nothing for so long gets a comment: what lies between takes a silent connection for a dead one."""
KEEP_ALIVE = b": still here\n\n"
LAST_EVENT = b"data: [DONE]\n\n"
"""What ends a stream of OpenAI's; a client has all of it then, whatever its node has yet to say."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The largest answer that is gathered whole."""


class Credit(Protocol):
    """How an answer lets the node send more."""

    def __call__(self, byte_count: int, /) -> None:
        """Allows `byte_count` more bytes."""


class ClientTransport(Protocol):
    """What a stream needs of the client's connection."""

    def write(self, data: bytes) -> None:
        """Queues bytes for the client."""

    def get_write_buffer_size(self) -> int:
        """Bytes that the client has not taken yet."""

    def is_closing(self) -> bool:
        """Whether the client is gone."""


class Answer:
    """The state that every relayed call has. `head` is done once the engine has answered or the call has failed."""

    __slots__ = (
        "_ended_waiter",
        "_loop",
        "completion_tokens",
        "credit",
        "end",
        "ended",
        "error",
        "given_up",
        "head",
        "last_frame_at",
        "silent",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.head: asyncio.Future[agent_pb.RelayHead] = self._loop.create_future()
        self.ended = False
        self._ended_waiter: asyncio.Future[None] | None = None
        self.end: agent_pb.RelayEnd | None = None
        self.error: CodedError | None = None
        self.given_up = False
        """It was ended for its client's sake: no other node is to be asked."""
        self.silent = False
        """It was ended because the node itself, and not just its engine, said nothing any more."""
        self.completion_tokens = 0
        self.credit: Credit | None = None
        self.last_frame_at = self._loop.time()

    def on_frame(self, frame: agent_pb.RelayResponseFrame) -> bool:
        """Takes the call's next frame; says whether it was the last."""
        raise NotImplementedError

    def flush(self) -> None:
        """Called once after the frames of one message were taken."""

    async def wait_ended(self) -> None:
        """Returns once the last frame has come or the call has failed. One waiter at a time."""
        if not self.ended:
            self._ended_waiter = self._loop.create_future()
            await self._ended_waiter

    def fail(self, error: CodedError) -> None:
        """The call can not go on: its node is gone, or it broke the protocol."""
        if self.ended:
            return
        self.error = error
        self._finish()

    def usage(self) -> common_pb.TokenUsage:
        """The tokens as last reported by the node."""
        if self.end is not None:
            return self.end.usage
        source = common_pb.COUNT_SOURCE_ENGINE_RUNNING if self.completion_tokens else common_pb.COUNT_SOURCE_NONE
        return common_pb.TokenUsage(completion_tokens=self.completion_tokens, source=source)

    def _take_end(self, end: agent_pb.RelayEnd) -> None:
        self.end = end
        if end.HasField("error"):
            self.error = from_call_error(end.error)
        self._finish()

    def _finish(self) -> None:
        if not self.head.done():
            self.head.set_exception(
                self.error or CodedError(ErrorCode.ENGINE_ERROR, private="the call ended without a head")
            )
            # The waiter may be gone; an exception that nobody reads is no news then.
            self.head.exception()
        self.ended = True
        if self._ended_waiter is not None and not self._ended_waiter.done():
            self._ended_waiter.set_result(None)


class WholeAnswer(Answer):
    """Gathers the body of an answer that does not stream."""

    __slots__ = ("_parts", "_size", "_uncredited")

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._size = 0
        self._uncredited = 0

    def on_frame(self, frame: agent_pb.RelayResponseFrame) -> bool:
        """Takes the call's next frame; says whether it was the last."""
        if not self.head.done() and frame.HasField("head"):
            self.head.set_result(frame.head)
        data = frame.data
        if data:
            self._parts.append(data)
            self._size += len(data)
            if self._size > MAX_ANSWER_BYTES:
                self.fail(CodedError(ErrorCode.ENGINE_ERROR, private="the answer is larger than 64 MiB"))
                return True
            self._uncredited += len(data)
            if self._uncredited >= CREDIT_STEP_BYTES and self.credit is not None:
                self.credit(self._uncredited)
                self._uncredited = 0
        if frame.HasField("end"):
            self._take_end(frame.end)
            return True
        return False

    def body(self) -> bytes:
        """The body, once `ended` is done."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


class StreamedAnswer(Answer):
    """Writes a stream through to the client as it comes, within what the client takes.

    The frames of one message from the node are gathered and written at once by `flush`: a burst costs one write.
    """

    __slots__ = (
        "_before",
        "_dropped",
        "_ids",
        "_last_frame",
        "_pending",
        "_transport",
        "_uncredited",
        "chunked",
        "first_byte_at",
        "last_comment_at",
        "last_progress_at",
        "sent_bytes",
    )

    def __init__(self, before: Relayed | None = None) -> None:
        """`before` is what an earlier node sent of the same stream."""
        super().__init__()
        self._before = before
        self._ids = bytearray() if before is None else bytearray(before.settled_ids)
        self._pending: list[bytes] = []
        self._dropped = False
        self._last_frame: agent_pb.RelayResponseFrame | None = None
        self._transport: ClientTransport | None = None
        self._uncredited = 0
        self.chunked = True
        self.first_byte_at = 0.0
        self.last_comment_at = 0.0
        self.last_progress_at = 0.0
        self.sent_bytes = 0
        """Of the answer's body, without its framing."""

    def on_frame(self, frame: agent_pb.RelayResponseFrame) -> bool:
        """Takes the call's next frame; says whether it was the last."""
        if not self.head.done() and frame.HasField("head"):
            self.head.set_result(frame.head)
        data = frame.data
        if data:
            self._pending.append(data)
            self._last_frame = frame
            self._ids += frame.ids
        if frame.HasField("end"):
            self._take_end(frame.end)
            return True
        return False

    def usage(self) -> common_pb.TokenUsage:
        """The tokens as last reported by the node, and no less than the client was sent by the one before it."""
        if self._last_frame is not None:
            self.completion_tokens = self._last_frame.completion_tokens
        usage = super().usage()
        relayed = self.relayed() if self.end is None else self._before
        if relayed is not None and (self.end is None or usage.completion_tokens < relayed.completion_tokens):
            return common_pb.TokenUsage(
                prompt_tokens=relayed.prompt_tokens,
                completion_tokens=relayed.completion_tokens,
                source=common_pb.COUNT_SOURCE_ENGINE_RUNNING,
            )
        return usage

    def relayed(self) -> Relayed | None:
        """What the client has of the stream, so that another node can go on with it. None: it cannot be resumed."""
        frame, before = self._last_frame, self._before
        if frame is None:
            return before
        opening, prompt_ids = b"", b""
        if before is not None:
            opening, prompt_ids = before.opening, before.prompt_ids
        elif self.head.done() and not self.head.cancelled() and self.head.exception() is None:
            head = self.head.result()
            opening, prompt_ids = head.stream_opening, head.prompt_ids
        if not opening or not prompt_ids or frame.cannot_resume:
            return None
        return Relayed(
            opening=opening,
            prompt_ids=prompt_ids,
            token_ids=bytes(self._ids),
            unsettled_tokens=min(frame.unsettled_tokens, len(self._ids) // ID_BYTES),
            unsettled_text=frame.unsettled_text,
            completion_tokens=frame.completion_tokens,
        )

    def attach(self, transport: ClientTransport, *, chunked: bool) -> None:
        """From now on bytes go to `transport`; `chunked` frames them for HTTP/1.1."""
        self._transport = transport
        self.chunked = chunked
        self.flush()

    def detach(self) -> list[bytes]:
        """Nothing more goes to the client; returns what never went."""
        self._transport = None
        pending, self._pending = self._pending, []
        return pending

    def flush(self) -> None:
        """Writes what has gathered."""
        transport = self._transport
        pending = self._pending
        if transport is None or not pending:
            return
        data = pending[0] if len(pending) == 1 else b"".join(pending)
        pending.clear()
        if transport.is_closing():
            self._dropped = True
            return
        if not self.first_byte_at:
            self.first_byte_at = self.last_frame_at
        size = len(data)
        transport.write(b"%x\r\n%b\r\n" % (size, data) if self.chunked else data)
        self.sent_bytes += size
        self._uncredited += size
        if self._uncredited >= CREDIT_STEP_BYTES and transport.get_write_buffer_size() < CREDIT_STEP_BYTES:
            self._grant()

    def delivered(self) -> bool:
        """Whether the whole stream went to the client's connection, also when the client left right after."""
        frame = self._last_frame
        if frame is None or self._dropped or self._pending:
            return False
        return frame.data.endswith(LAST_EVENT) or (
            self.end is not None and self.end.outcome == common_pb.OUTCOME_SUCCEEDED
        )

    def keep_alive(self, now: float) -> None:
        """Writes a comment when the stream has been silent for long; between events, which frames never cut."""
        transport = self._transport
        if transport is None or now - max(self.last_frame_at, self.last_comment_at) < KEEP_ALIVE_S:
            return
        self.last_comment_at = now
        if self.first_byte_at and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(KEEP_ALIVE), KEEP_ALIVE) if self.chunked else KEEP_ALIVE)

    def stalled(self) -> bool:
        """Whether the client has yet to take bytes before the node may send more; lets the node go on if it has not."""
        transport = self._transport
        if transport is None or self._uncredited < CREDIT_STEP_BYTES:
            return False
        if transport.get_write_buffer_size() >= CREDIT_STEP_BYTES:
            return True
        self._grant()
        return False

    def _grant(self) -> None:
        self.last_progress_at = self._loop.time()
        if self.credit is not None:
            self.credit(self._uncredited)
        self._uncredited = 0
