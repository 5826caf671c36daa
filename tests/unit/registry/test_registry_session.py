"""One heartbeat stream."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_registry.session import HeartbeatSession
from tests.fakes.registry_world import FakeStream, heartbeat


async def silent() -> AsyncIterator[pb.HeartbeatStreamRequest]:
    yield heartbeat()
    await asyncio.Event().wait()


async def test_ending_a_session_ends_its_stream_without_an_error_for_the_node() -> None:
    session, requests = FakeStream().session, silent()
    assert await session.next(requests) is not None
    reading = asyncio.create_task(session.next(requests))
    await asyncio.sleep(0)
    session.end()
    session.end()
    assert await reading is None
    assert reading.cancelling() == 0
    assert await session.next(requests) is None


async def test_a_stream_cancelled_by_its_client_is_cancelled() -> None:
    session, requests = FakeStream().session, silent()
    await session.next(requests)
    reading = asyncio.create_task(session.next(requests))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_an_order_and_an_answer_never_write_at_the_same_time() -> None:
    writing = 0
    sent: list[bool] = []

    async def write(message: pb.HeartbeatStreamResponse) -> None:
        nonlocal writing
        writing += 1
        assert writing == 1
        await asyncio.sleep(0)
        writing -= 1
        sent.append(message.drain)

    session = HeartbeatSession(write=write, next_heartbeat_ms=1)
    session.order_drain()
    session.order_drain()
    await asyncio.gather(*(session.answer(drain=False) for _ in range(3)))
    await asyncio.sleep(0.01)
    assert sorted(sent) == [False, False, True]


async def test_a_node_that_hangs_does_not_hold_up_the_operator_who_drains_it() -> None:
    async def write(_message: pb.HeartbeatStreamResponse) -> None:
        await asyncio.Event().wait()

    session = HeartbeatSession(write=write, next_heartbeat_ms=1)
    for _ in range(100):
        session.order_drain()
        await asyncio.sleep(0)
    session.end()


async def test_an_agent_that_reads_once_a_heartbeat_never_reads_old_answers() -> None:
    stream = FakeStream()
    await stream.session.answer(drain=False)
    stream.session.order_drain()
    await asyncio.sleep(0.01)
    for _ in range(3):
        await stream.session.answer(drain=True)
    assert [message.drain for message in stream.sent] == [False, True, True, True]
