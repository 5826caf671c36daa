"""What a client of a stream would notice first: a late first token, a slow long answer; and what would fill memory."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_gateway.access_log import MAX_BUFFERED, AccessLog
from crosslogic_gateway.answers import StreamedAnswer
from crosslogic_gateway.domain import Route
from crosslogic_gateway.relay import NodeLink, RelayPool, Timeouts


class ScriptedNode:
    """A node that says what the test tells it to."""

    def __init__(self) -> None:
        self.cancelled = False
        self._queue: asyncio.Queue[pb.RelayResponse] = asyncio.Queue()

    async def wait_for_connection(self) -> None:
        await asyncio.sleep(0)

    async def write(self, request: bytes) -> None:
        """Takes anything."""

    async def read(self) -> object:
        return await self._queue.get()

    def say(self, *frames: pb.RelayResponseFrame) -> None:
        self._queue.put_nowait(pb.RelayResponse(frames=frames))

    def cancel(self) -> bool:
        self.cancelled = True
        return True


class CountingClient:
    """A connection that notes each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False


@contextlib.asynccontextmanager
async def streaming() -> AsyncIterator[tuple[ScriptedNode, int, CountingClient]]:
    node = ScriptedNode()
    link = NodeLink(route=Route("node", "127.0.0.1:1", "local"), open_relay=lambda _: node)
    async with link.running():
        await asyncio.sleep(0.01)
        answer = StreamedAnswer()
        call_id = link.open(pb.RelayOpen(model="m", stream=True), answer)
        client = CountingClient()
        answer.attach(client, chunked=False)
        yield node, call_id, client


async def test_the_first_token_waits_for_no_timer() -> None:
    async with streaming() as (node, call_id, client):
        node.say(pb.RelayResponseFrame(call_id=call_id, head=pb.RelayHead(status=200), data=b"data: first\n\n"))
        for _ in range(5):  # turns of the loop, no time
            await asyncio.sleep(0)
        assert client.writes == [b"data: first\n\n"]


async def test_a_silent_stream_says_every_15_s_that_it_is_still_there() -> None:
    async with streaming() as (_, call_id, client):
        answer = StreamedAnswer()
        answer.attach(client, chunked=True)
        begin = answer.last_frame_at
        answer.keep_alive(begin + 20)
        assert client.writes == [], "before its first byte a stream has no place for a comment"
        answer.on_frame(pb.RelayResponseFrame(call_id=call_id, head=pb.RelayHead(status=200), data=b"data: 1\n\n"))
        answer.last_frame_at = begin + 30
        answer.flush()
        for second in range(31, 80):
            answer.keep_alive(begin + second)
        assert client.writes == [b"9\r\ndata: 1\n\n\r\n", *[b"e\r\n: still here\n\n\r\n"] * 3]


async def test_a_long_answer_is_written_once_and_not_again_with_each_chunk() -> None:
    chunks = [b"data: %d\n\n" % number for number in range(5_000)]
    async with streaming() as (node, call_id, client):
        for at in range(0, len(chunks), 10):
            node.say(*(pb.RelayResponseFrame(call_id=call_id, data=chunk) for chunk in chunks[at : at + 10]))
        while len(client.writes) < len(chunks) // 10:
            await asyncio.sleep(0)
        assert b"".join(client.writes) == b"".join(chunks)
        assert len(client.writes) == len(chunks) // 10, "chunks that came together go out together"


async def test_nodes_that_are_gone_leave_no_connection_behind() -> None:
    nodes: list[ScriptedNode] = []

    def dial(_: Route) -> ScriptedNode:
        nodes.append(ScriptedNode())
        return nodes[-1]

    pool = RelayPool(open_relay=dial, timeouts=Timeouts(), unused_after_s=0.05)
    async with pool.running():
        for number in range(50):
            pool.link(Route(f"node-{number}", "127.0.0.1:1", "local"))
        async with asyncio.timeout(5):
            while len(nodes) < 50 or not all(node.cancelled for node in nodes):
                await asyncio.sleep(0.01)


async def test_a_log_that_nobody_takes_drops_lines_and_counts_them_and_fills_no_memory() -> None:
    written: list[bytes] = []
    log = AccessLog(write=written.append)
    for _ in range(MAX_BUFFERED + 7):
        log.write(0.0, "POST", "/v1/chat/completions", 200, 0.001, "id", "127.0.0.1")
    assert log.dropped == 7
    async with log.running():
        pass
    lines = b"".join(written).splitlines()
    assert len(lines) == MAX_BUFFERED
    assert json.loads(lines[0])["path"] == "/v1/chat/completions"
