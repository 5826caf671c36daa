"""The relay protocol's node side around the canned engine, at as little cost as Python allows."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Any

import grpc
import grpc.aio

from benchmarks.canned_engine import (
    END_OF_STREAM,
    PROMPT_TOKENS,
    CannedEngine,
    Profile,
    chat_answer,
    chat_chunk,
    profile_of,
)
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.batched import GatheringWriter
from crosslogic_common.wire import repeated_messages, varint

SERVICE = "crosslogic.node_agent.v1.NodeAgentService"
FIRST_CREDIT_BYTES = 262_144
_STREAM_HEAD = pb.RelayHead(
    status=200,
    content_type="text/event-stream; charset=utf-8",
    prompt_ids=bytes(4 * PROMPT_TOKENS),
    stream_opening=b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench"}',
)
_WHOLE_HEAD = pb.RelayHead(status=200, content_type="application/json")


def _end(tokens: int) -> pb.RelayEnd:
    usage = common_pb.TokenUsage(
        prompt_tokens=PROMPT_TOKENS, completion_tokens=tokens, source=common_pb.COUNT_SOURCE_ENGINE_FINAL
    )
    return pb.RelayEnd(outcome=common_pb.OUTCOME_SUCCEEDED, usage=usage)


@lru_cache(maxsize=256)
def _whole_frame(tokens: int) -> bytes:
    """A whole answer's frame without its call id."""
    return pb.RelayResponseFrame(head=_WHOLE_HEAD, data=chat_answer(tokens), end=_end(tokens)).SerializeToString()


@lru_cache(maxsize=65_536)
def _tokens_frame(first: int, count: int) -> tuple[bytes, int]:
    """A frame of a stream without its call id, and the bytes for the client in it."""
    data = b"".join(chat_chunk(number) for number in range(first, first + count))
    ids = array("I", range(first, first + count)).tobytes()
    frame = pb.RelayResponseFrame(data=data, completion_tokens=first + count, ids=ids)
    if first == 0:
        frame.head.CopyFrom(_STREAM_HEAD)
    return frame.SerializeToString(), len(data)


@lru_cache(maxsize=1024)
def _end_frame(tokens: int) -> bytes:
    return pb.RelayResponseFrame(data=END_OF_STREAM, end=_end(tokens)).SerializeToString()


class _RelayedCall:
    """One call of a gateway: hears from the engine, writes frames."""

    __slots__ = ("_call_id", "_connection", "_credit_bytes", "_profile", "cancel")

    def __init__(self, connection: "_Connection", call_id: int, profile: Profile) -> None:
        self._connection = connection
        self._call_id = b"\x08" + varint(call_id)
        self._profile = profile
        self._credit_bytes = FIRST_CREDIT_BYTES
        self.cancel: Callable[[], None] = _nothing

    def whole(self) -> None:
        self._connection.send(self._call_id + _whole_frame(self._profile.tokens))
        self._connection.forget(self)

    def tokens(self, first: int, count: int) -> bool:
        frame, size = _tokens_frame(first, count)
        if size > self._credit_bytes or not self._connection.has_room():
            return False
        self._credit_bytes -= size
        self._connection.send(self._call_id + frame)
        return True

    def done(self) -> None:
        self._connection.send(self._call_id + _end_frame(self._profile.tokens))
        self._connection.forget(self)

    def more_credit(self, byte_count: int) -> None:
        self._credit_bytes += byte_count

    def end_cancelled(self) -> None:
        self.cancel()
        end = pb.RelayEnd(outcome=common_pb.OUTCOME_CLIENT_DISCONNECTED, usage=_end(0).usage)
        self._connection.send(self._call_id + pb.RelayResponseFrame(end=end).SerializeToString())
        self._connection.forget(self)

    def key(self) -> bytes:
        return self._call_id


class _Connection:
    """One gateway worker's stream."""

    def __init__(self, engine: CannedEngine, write: Callable[[bytes], Any]) -> None:
        self._engine = engine
        self._calls: dict[bytes, _RelayedCall] = {}

        async def write_frames(frames: list[bytes]) -> None:
            await write(repeated_messages(frames))

        self.writer: GatheringWriter[bytes] = GatheringWriter(write=write_frames, max_batch=1024, max_queued=65_536)
        self.send = self.writer.send

    def has_room(self) -> bool:
        """Whether the gateway keeps up; a burst waits while it does not."""
        return len(self.writer) < 1024

    def take(self, message: pb.RelayRequest) -> None:
        for frame in message.frames:
            if frame.HasField("open"):
                self._open(frame.call_id, frame.open)
                continue
            call = self._calls.get(b"\x08" + varint(frame.call_id))
            if call is None:
                continue
            if frame.HasField("cancel"):
                call.end_cancelled()
            else:
                call.more_credit(frame.credit_bytes)

    def forget(self, call: _RelayedCall) -> None:
        self._calls.pop(call.key(), None)

    def close(self) -> None:
        for call in self._calls.values():
            call.cancel()

    def _open(self, call_id: int, request: pb.RelayOpen) -> None:
        profile = profile_of(request.body)
        call = _RelayedCall(self, call_id, profile)
        if request.stream or profile.think_us:
            self._calls[call.key()] = call
        call.cancel = self._engine.start(profile, request.stream, call)


class RelayService:
    """NodeAgentService, as far as a gateway uses it."""

    def __init__(self, engine: CannedEngine, stopping: asyncio.Event) -> None:
        self._engine = engine
        self._stopping = stopping

    async def relay(
        self, requests: AsyncIterator[pb.RelayRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Carries all requests of one gateway worker."""
        connection = _Connection(self._engine, context.write)
        writing = asyncio.create_task(connection.writer.run())
        stopped = asyncio.create_task(self._stopping.wait())
        reading = asyncio.create_task(self._read(requests, connection))
        try:
            await asyncio.wait([writing, reading, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            connection.close()
            for task in (writing, reading, stopped):
                task.cancel()
            await asyncio.gather(writing, reading, stopped, return_exceptions=True)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service to a server. Answers are bytes already."""
        handlers = {
            "Relay": grpc.stream_stream_rpc_method_handler(
                self.relay, request_deserializer=pb.RelayRequest.FromString, response_serializer=_as_is
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    @staticmethod
    async def _read(requests: AsyncIterator[pb.RelayRequest], connection: _Connection) -> None:
        async for message in requests:
            connection.take(message)


def _as_is(message: bytes) -> bytes:
    return message


def _nothing() -> None:
    pass
