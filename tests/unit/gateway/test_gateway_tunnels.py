"""Relay streams that nodes dialled."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.fleet_ties import moved
from crosslogic_gateway.tunnels import Tunnel, Tunnels


class Node:
    """A node's end of a tunnel: what it was sent, and what it says."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._says: asyncio.Queue[agent_pb.RelayResponse | None] = asyncio.Queue()
        self.tunnel = Tunnel(messages=self._messages(), write=self._write)

    async def _messages(self) -> AsyncIterator[agent_pb.RelayResponse]:
        while (message := await self._says.get()) is not None:
            yield message

    async def _write(self, data: bytes) -> None:
        self.sent.append(data)

    def say(self, call_id: int) -> None:
        self._says.put_nowait(agent_pb.RelayResponse(frames=[agent_pb.RelayResponseFrame(call_id=call_id)]))

    def hang_up(self) -> None:
        self._says.put_nowait(None)


async def served(tunnels: Tunnels, node_id: str, node: Node) -> "asyncio.Task[None]":
    task = asyncio.create_task(tunnels.serve(node_id, node.tunnel, asyncio.Event()))
    await asyncio.sleep(0)
    return task


async def test_link_waits_for_its_node_to_dial_and_then_speaks_both_ways() -> None:
    tunnels, node = Tunnels(), Node()
    stream = tunnels.stream("n")
    connecting = asyncio.create_task(stream.wait_for_connection())
    await asyncio.sleep(0)
    assert not connecting.done()
    task = await served(tunnels, "n", node)
    await asyncio.wait_for(connecting, 5)
    await stream.write(b"frames")
    assert node.sent == [b"frames"]
    node.say(7)
    message = await stream.read()
    assert isinstance(message, agent_pb.RelayResponse)
    assert message.frames[0].call_id == 7
    node.hang_up()
    assert await stream.read() is grpc.aio.EOF
    assert stream.cancel()
    await asyncio.wait_for(task, 5)
    assert len(tunnels) == 0


async def test_second_tunnel_of_a_node_ends_the_first_and_is_used_from_then_on() -> None:
    tunnels, first, second = Tunnels(), Node(), Node()
    old = await served(tunnels, "n", first)
    stream = tunnels.stream("n")
    await stream.wait_for_connection()
    new = await served(tunnels, "n", second)
    await asyncio.wait_for(old, 5)
    with pytest.raises(CodedError) as ended:
        await stream.write(b"x")
    assert ended.value.code == ErrorCode.UNAVAILABLE
    assert await stream.read() is grpc.aio.EOF
    again = tunnels.stream("n")
    await asyncio.wait_for(again.wait_for_connection(), 5)
    await again.write(b"y")
    assert (first.sent, second.sent) == ([], [b"y"])
    again.cancel()
    await asyncio.wait_for(new, 5)


async def test_tunnel_of_one_node_is_never_anothers() -> None:
    tunnels, node = Tunnels(), Node()
    task = await served(tunnels, "a", node)
    other = asyncio.create_task(tunnels.stream("b").wait_for_connection())
    await asyncio.sleep(0.01)
    assert not other.done()
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    assert not tunnels._came, "nobody waits any more"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(tunnels) == 0


async def test_tunnels_are_bounded_but_a_node_that_dials_again_is_let_in() -> None:
    tunnels, node = Tunnels(max_tunnels=1), Node()
    task = await served(tunnels, "a", node)
    with pytest.raises(CodedError) as refused:
        await tunnels.serve("b", Node().tunnel, asyncio.Event())
    assert refused.value.code == ErrorCode.OVERLOADED
    again = await served(tunnels, "a", Node())
    await asyncio.wait_for(task, 5)
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)


async def test_stopping_worker_lets_its_tunnels_go() -> None:
    tunnels, node, stopping = Tunnels(), Node(), asyncio.Event()
    task = asyncio.create_task(tunnels.serve("a", node.tunnel, stopping))
    await asyncio.sleep(0)
    stopping.set()
    await asyncio.wait_for(task, 5)
    assert node.tunnel.closed.is_set()


def test_each_worker_has_a_port_of_its_own() -> None:
    assert moved("10.0.0.1:7000", 0) == "10.0.0.1:7000"
    assert moved("[::1]:7000", 3) == "[::1]:7003"
