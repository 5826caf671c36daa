"""The relay's gateway end: whole answers, streams, slow readers, dead nodes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.answers import CREDIT_STEP_BYTES, StreamedAnswer, WholeAnswer
from crosslogic_gateway.domain import Route
from crosslogic_gateway.relay import NodeLink, RelayPool, Timeouts

ROUTE = Route("node", "127.0.0.1:1", "local")
USAGE = common_pb.TokenUsage(prompt_tokens=3, completion_tokens=2, source=common_pb.COUNT_SOURCE_ENGINE_FINAL)
END = pb.RelayEnd(outcome=common_pb.OUTCOME_SUCCEEDED, usage=USAGE)


class NodeStream:
    """A node that the test plays by hand."""

    def __init__(self) -> None:
        self.frames: list[pb.RelayRequestFrame] = []
        self._out: asyncio.Queue[object] = asyncio.Queue()

    async def wait_for_connection(self) -> None:
        await asyncio.sleep(0)

    async def write(self, request: bytes) -> None:
        self.frames.extend(pb.RelayRequest.FromString(request).frames)

    async def read(self) -> object:
        return await self._out.get()

    def cancel(self) -> bool:
        return True

    def say(self, *frames: pb.RelayResponseFrame) -> None:
        self._out.put_nowait(pb.RelayResponse(frames=frames))

    def die(self) -> None:
        self._out.put_nowait(grpc.aio.EOF)


class Client:
    """A client's connection that takes bytes only when told to."""

    def __init__(self) -> None:
        self.received = b""
        self.waiting = 0

    def write(self, data: bytes) -> None:
        self.received += data
        self.waiting += len(data)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return False


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[NodeLink, NodeStream]]:
    node = NodeStream()
    link = NodeLink(route=ROUTE, open_relay=lambda _: node)
    async with link.running():
        await asyncio.sleep(0.01)
        yield link, node


async def test_a_whole_answer_is_its_parts_in_order() -> None:
    async with connected() as (link, node):
        answer = WholeAnswer()
        call_id = link.open(pb.RelayOpen(model="m"), answer)
        node.say(pb.RelayResponseFrame(call_id=call_id, head=pb.RelayHead(status=200), data=b"one "))
        node.say(pb.RelayResponseFrame(call_id=call_id, data=b"two"))
        node.say(pb.RelayResponseFrame(call_id=call_id, end=END))
        assert (await asyncio.wait_for(answer.head, 1)).status == 200
        await asyncio.wait_for(answer.wait_ended(), 1)
        assert answer.body() == b"one two"
        assert answer.usage() == USAGE
        assert link.idle


async def test_a_dead_node_fails_its_calls_at_once_and_later_ones_before_they_wait() -> None:
    async with connected() as (link, node):
        answer = WholeAnswer()
        link.open(pb.RelayOpen(), answer)
        node.die()
        with pytest.raises(CodedError) as caught:
            await asyncio.wait_for(answer.head, 1)
        assert caught.value.code == ErrorCode.ENGINE_UNAVAILABLE
        with pytest.raises(CodedError) as refused:
            link.open(pb.RelayOpen(), WholeAnswer())
        assert refused.value.code == ErrorCode.UNAVAILABLE
        assert link.idle


async def test_a_stream_is_written_through_with_what_came_before_the_client_was_ready() -> None:
    async with connected() as (link, node):
        answer = StreamedAnswer()
        call_id = link.open(pb.RelayOpen(stream=True), answer)
        node.say(pb.RelayResponseFrame(call_id=call_id, head=pb.RelayHead(status=200), data=b"a", completion_tokens=1))
        await asyncio.wait_for(answer.head, 1)
        client = Client()
        answer.attach(client, chunked=True)
        node.say(
            pb.RelayResponseFrame(call_id=call_id, data=b"bc", completion_tokens=2),
            pb.RelayResponseFrame(call_id=call_id, data=b"d", completion_tokens=3),
        )
        node.say(pb.RelayResponseFrame(call_id=call_id, end=END))
        await asyncio.wait_for(answer.wait_ended(), 1)
        assert client.received == b"1\r\na\r\n3\r\nbcd\r\n"


async def test_a_stream_that_is_cut_keeps_the_last_count() -> None:
    async with connected() as (link, node):
        answer = StreamedAnswer()
        call_id = link.open(pb.RelayOpen(stream=True), answer)
        node.say(pb.RelayResponseFrame(call_id=call_id, head=pb.RelayHead(status=200), data=b"a", completion_tokens=7))
        await asyncio.wait_for(answer.head, 1)
        node.die()
        await asyncio.wait_for(answer.wait_ended(), 1)
        assert answer.usage().completion_tokens == 7
        assert answer.usage().source == common_pb.COUNT_SOURCE_ENGINE_RUNNING


async def test_a_reader_that_takes_nothing_gets_no_credit_until_it_does() -> None:
    async with connected() as (link, node):
        answer = StreamedAnswer()
        call_id = link.open(pb.RelayOpen(stream=True), answer)
        node.say(pb.RelayResponseFrame(call_id=call_id, head=pb.RelayHead(status=200)))
        await asyncio.wait_for(answer.head, 1)
        client = Client()
        answer.attach(client, chunked=False)
        node.say(pb.RelayResponseFrame(call_id=call_id, data=bytes(CREDIT_STEP_BYTES)))
        await asyncio.sleep(0.01)
        assert [frame.credit_bytes for frame in node.frames if frame.HasField("credit_bytes")] == []
        assert answer.stalled()
        client.waiting = 0
        assert not answer.stalled()
        await asyncio.sleep(0.01)
        assert [frame.credit_bytes for frame in node.frames if frame.HasField("credit_bytes")] == [CREDIT_STEP_BYTES]


async def test_a_silent_node_and_a_stalled_client_are_given_up() -> None:
    node = NodeStream()
    pool = RelayPool(open_relay=lambda _: node, timeouts=Timeouts(0.05, 0.05, 0.1, slack_s=0.0))
    async with pool.running():
        link = pool.link(ROUTE)
        await asyncio.sleep(0.01)
        silent = WholeAnswer()
        link.open(pb.RelayOpen(), silent)
        with pytest.raises(CodedError) as caught:
            await asyncio.wait_for(silent.head, 2)
        assert caught.value.code == ErrorCode.TIMEOUT

        slow = StreamedAnswer()
        call_id = link.open(pb.RelayOpen(stream=True), slow)
        node.say(pb.RelayResponseFrame(call_id=call_id, head=pb.RelayHead(status=200)))
        await asyncio.wait_for(slow.head, 1)
        slow.attach(Client(), chunked=False)
        node.say(pb.RelayResponseFrame(call_id=call_id, data=bytes(CREDIT_STEP_BYTES)))
        await asyncio.wait_for(slow.wait_ended(), 2)
        assert slow.error is not None
        assert slow.error.code == ErrorCode.TIMEOUT
        await asyncio.sleep(0.01)
        assert [frame.call_id for frame in node.frames if frame.HasField("supersede")] == [1], "a node that is late"
        assert [frame.call_id for frame in node.frames if frame.HasField("cancel")] == [call_id], "a client that is"
