"""A command reaches a node whose heartbeats arrive at another replica, and what came of it comes back."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from tests.fakes.registry_suite import RegistrySuite, code_of, watching
from tests.fakes.registry_world import heartbeat

ASKED = pb.CommandNodeRequest(
    command=pb.NodeCommand(collect_logs=pb.CollectLogs(source=pb.LOG_SOURCE_AGENT)), timeout_s=20
)


@pytest.fixture
async def suite(pg_url: str) -> AsyncIterator[RegistrySuite]:
    with tempfile.TemporaryDirectory() as folder:
        made = RegistrySuite(Path(folder), pg_url=pg_url, replicas=2)
        yield made
        await made.close()


def asked(node_id: str) -> pb.CommandNodeRequest:
    request = pb.CommandNodeRequest()
    request.CopyFrom(ASKED)
    request.node_id = node_id
    return request


async def command_of(stream: Any) -> pb.NodeCommand:
    async with asyncio.timeout(20):
        while True:
            answer = await stream.read()
            for command in answer.commands:
                return command  # type: ignore[no-any-return]


async def test_an_operator_at_one_replica_commands_a_node_that_streams_at_the_other(suite: RegistrySuite) -> None:
    async with suite.running(0), suite.running(1), watching(suite, replica=1) as watch:
        node = await suite.join(replica=0)
        async with node.streaming() as stream:
            await watch.until(lambda nodes: nodes[node.id].status == pb.NODE_STATUS_ACTIVE, timeout_s=20)
            answers = [suite.stub("operator", replica=1).CommandNode(asked(node.id), timeout=40) for _ in range(3)]
            for number in range(3):
                command = await command_of(stream)
                said = heartbeat()
                said.outcomes.add(command_id=command.id, done=True, detail="sent", data=bytes([number]))
                await stream.write(said)
            found = [(await answer).outcome for answer in answers]
            assert sorted(each.data for each in found) == [b"\0", b"\1", b"\2"]
            assert all(each.done for each in found)


async def test_a_node_that_streams_nowhere_is_told_of_and_its_command_is_not_carried_out_later(
    suite: RegistrySuite,
) -> None:
    async with suite.running(0), suite.running(1):
        node = await suite.join(replica=0)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await suite.stub("operator", replica=1).CommandNode(asked(node.id), timeout=40)
        assert code_of(refused.value) == "UNAVAILABLE"
        async with node.streaming() as stream:
            await stream.write(heartbeat())
            answer = await asyncio.wait_for(stream.read(), 20)
            assert list(answer.commands) == []


async def test_a_command_outlives_the_connections_on_which_replicas_hear_of_commands(
    suite: RegistrySuite, pg_url: str
) -> None:
    async with suite.running(0), suite.running(1), watching(suite, replica=1) as watch:
        node = await suite.join(replica=0)
        async with node.streaming() as stream:
            await watch.until(lambda nodes: nodes[node.id].status == pb.NODE_STATUS_ACTIVE, timeout_s=20)
            async with await psycopg.AsyncConnection.connect(pg_url, autocommit=True) as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE query LIKE 'LISTEN%registry_commands%' AND pid <> pg_backend_pid()"
                )
            answer = suite.stub("operator", replica=1).CommandNode(asked(node.id), timeout=40)
            command = await command_of(stream)
            said = heartbeat()
            said.outcomes.add(command_id=command.id, done=True)
            await stream.write(said)
            assert (await answer).outcome.done
