"""Two versions of a model serve: a stream whose node is lost never goes on at the other one."""

import asyncio
from dataclasses import replace

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_common.errors import ErrorCode
from tests.fakes.gateway_fleet import fleet


async def test_a_stream_goes_on_at_a_node_of_the_version_that_began_it() -> None:
    async with fleet(3) as world:
        first, other, same = world.nodes
        for node, version in ((first, "v2"), (other, "v1"), (same, "v2")):
            node.route = replace(node.route, version=version)
        answer = asyncio.create_task(world.post(stream=True))
        call_id, _ = await first.call()
        first.begin(call_id, b"one ", tokens=2)
        first.die()
        call_id, opened = await same.call()
        assert opened.HasField("resume")
        same.say(call_id, head={"status": 200}, data=b"two", completion_tokens=3, ids=bytes(4))
        same.end(call_id, tokens=3)
        async with await answer as response:
            assert await response.read() == b"one two"
        assert world.picks.versions == [None, "v2"]
        assert other.opened == []


async def test_a_stream_without_another_node_of_its_version_ends_with_an_error_and_not_in_other_words() -> None:
    async with fleet(3) as world:
        first, other, another = world.nodes
        first.route = replace(first.route, version="v2")
        answer = asyncio.create_task(world.post(stream=True))
        call_id, _ = await first.call()
        first.begin(call_id, b"one ", tokens=2)
        first.die()
        async with await answer as response:
            body = await response.read()
        assert body.startswith(b"one ")
        assert b"error" in body
        assert other.opened == another.opened == []
        assert (await world.record()).outcome == common_pb.OUTCOME_FAILED


async def test_a_request_of_which_the_client_has_nothing_yet_may_go_to_either_version() -> None:
    async with fleet(2) as world:
        first, other = world.nodes
        first.route = replace(first.route, version="v2")
        answer = asyncio.create_task(world.post(stream=False))
        call_id, _ = await first.call()
        first.fail(call_id, ErrorCode.ENGINE_UNAVAILABLE)
        call_id, _ = await other.call()
        other.answer(call_id, 200)
        async with await answer as response:
            assert response.status == 200
        assert world.picks.versions == [None, None]
