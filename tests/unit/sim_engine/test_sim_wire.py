"""The simulated engine's HTTP: whatever way the bytes come, each request is read once and answered once."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_sim_engine.wire import MAX_HEAD_BYTES, Connection, Request, StreamSink

POST = b"POST /a?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-Request-Id: r\r\n\r\nhello"
CHUNKED = b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"


class FakeTransport:
    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0


def connected(handle: Any) -> tuple[Connection, FakeTransport]:
    connection = Connection(handle, set())
    transport = FakeTransport()
    connection.connection_made(cast("asyncio.BaseTransport", transport))
    return connection, transport


async def exchanged(*parts: bytes) -> tuple[list[tuple[str, str, bytes]], FakeTransport]:
    """What was read of these bytes, each request answered at once."""
    seen: list[tuple[str, str, bytes]] = []

    def handle(request: Request) -> None:
        seen.append((request.method, request.path, request.body))
        request.reply(b"{}")

    connection, transport = connected(handle)
    for part in parts:
        connection.data_received(part)
    for _ in range(5):
        await asyncio.sleep(0)
    return seen, transport


@given(st.integers(min_value=1, max_value=len(POST + CHUNKED) - 1))
def test_requests_cut_anywhere_are_read_whole(place: int) -> None:
    both = POST + CHUNKED
    seen, transport = asyncio.run(exchanged(both[:place], both[place:]))
    assert seen == [("POST", "/a", b"hello"), ("POST", "/b", b"hello")]
    assert transport.sent.count(b"HTTP/1.1 200 OK") == 2


async def test_a_pipelined_request_waits_for_the_answer_before_it() -> None:
    waiting: list[Request] = []
    connection, transport = connected(waiting.append)
    connection.data_received(POST + POST)
    assert len(waiting) == 1
    waiting[0].reply(b"{}")
    await asyncio.sleep(0)
    assert len(waiting) == 2
    assert transport.sent.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ncontent-length: -5\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * MAX_HEAD_BYTES, b"431"),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_closed(sent: bytes, status: bytes) -> None:
    seen, transport = await exchanged(sent)
    assert seen == []
    assert transport.sent.startswith(b"HTTP/1.1 " + status)
    assert transport.closed


async def test_a_client_that_wants_to_close_is_closed_after_its_answer() -> None:
    _, transport = await exchanged(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert transport.sent.endswith(b"{}")
    assert transport.closed


async def test_a_client_that_leaves_is_noticed_once_and_only_while_it_waits() -> None:
    left: list[str] = []

    def handle(request: Request) -> None:
        request.connection.on_lost = lambda: left.append(request.path)
        if request.path == "/a":
            request.reply(b"{}")

    connection, _ = connected(handle)
    connection.data_received(POST)
    connection.connection_lost(None)
    assert left == []
    connection, _ = connected(handle)
    connection.data_received(CHUNKED)
    connection.connection_lost(None)
    connection.connection_lost(None)
    assert left == ["/b"]


async def test_a_stream_is_framed_and_the_connection_serves_on() -> None:
    requests: list[Request] = []
    connection, transport = connected(requests.append)
    connection.data_received(POST + POST)
    sink = StreamSink(requests[0])
    sink.write(b"data: 1\n\n")
    sink.write(b"")
    sink.write(b"data: 2\n\n")
    sink.end()
    head, _, body = transport.sent.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b"9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n"
    await asyncio.sleep(0)
    assert len(requests) == 2
