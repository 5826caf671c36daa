"""One heartbeat stream."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_registry.session import MAX_COMMANDS_WAITING, HeartbeatSession
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
    sent: list[pb.HeartbeatStreamResponse] = []

    async def write(message: pb.HeartbeatStreamResponse) -> None:
        nonlocal writing
        writing += 1
        assert writing == 1
        await asyncio.sleep(0)
        writing -= 1
        sent.append(message)

    session = HeartbeatSession(write=write, next_heartbeat_ms=1)
    session.order_drain()
    session.order(pb.NodeCommand(id="a"))
    session.order_tunnels(["10.0.0.1:1"])
    await asyncio.gather(*(session.answer(drain=True) for _ in range(3)))
    session.order(pb.NodeCommand(id="b"))
    await asyncio.sleep(0.01)
    assert all(message.drain for message in sent)
    assert [command.id for message in sent for command in message.commands] == ["a", "b"], "each command goes once"
    assert [list(message.tunnels.addresses) for message in sent if message.HasField("tunnels")] == [["10.0.0.1:1"]]


async def test_a_node_that_hangs_does_not_hold_up_the_operator_who_drains_it() -> None:
    async def write(_message: pb.HeartbeatStreamResponse) -> None:
        await asyncio.Event().wait()

    session = HeartbeatSession(write=write, next_heartbeat_ms=1)
    for _ in range(100):
        session.order_drain()
        await asyncio.sleep(0)
    session.end()


async def test_an_order_goes_out_at_once_and_holds_in_every_answer_until_it_is_taken_back() -> None:
    stream = FakeStream()
    await stream.session.answer(drain=False)
    stream.session.order_drain()
    await asyncio.sleep(0.01)
    await stream.session.answer(drain=True)
    stream.session.order_drain(drain=False)
    await asyncio.sleep(0.01)
    assert [message.drain for message in stream.sent] == [False, True, True, False]


async def test_commands_that_a_hanging_node_does_not_take_are_bounded() -> None:
    async def write(_message: pb.HeartbeatStreamResponse) -> None:
        await asyncio.Event().wait()

    session = HeartbeatSession(write=write, next_heartbeat_ms=1)
    session.order(pb.NodeCommand(id="taken by the write that hangs"))
    await asyncio.sleep(0.01)
    for number in range(MAX_COMMANDS_WAITING):
        session.order(pb.NodeCommand(id=str(number)))
    with pytest.raises(CodedError) as refused:
        session.order(pb.NodeCommand(id="one too many"))
    assert refused.value.code == ErrorCode.OVERLOADED
    session.end()
