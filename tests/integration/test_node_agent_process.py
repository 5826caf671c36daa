"""The agent as its own process, over real mTLS, with an engine that it starts."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic.node_agent.v1 import node_agent_pb2_grpc as rpc
from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_common.tls import Channels
from crosslogic_node_agent.engine_process import marked_processes
from tests.fakes.node_agent_bench import relay_open
from tests.fakes.node_agent_process import ENGINE, agent_process, gateway_stream, read_call
from tests.fakes.node_agent_registry import FakeRegistry

ACTIVE = registry_pb.NODE_STATUS_ACTIVE
WARMING = registry_pb.NODE_STATUS_WARMING


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry(tmp_path)
    async with registry.serving():
        yield registry


def opened(call_id: int, tokens: int = 4, **steer: Any) -> pb.RelayRequest:
    body = {"prompt": "a", "max_tokens": tokens, "x": steer}
    request = relay_open(body, stream=True, sealed_context=b"sealed %d" % call_id)
    return pb.RelayRequest(frames=[pb.RelayRequestFrame(call_id=call_id, open=request)])


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_machine_joins_tells_what_it_is_and_serves_a_gateway(registry: FakeRegistry, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    async with agent_process(registry, state_dir) as agent:
        await registry.status(ACTIVE)
        facts = registry.beats[0].facts
        assert (facts.address, facts.region, list(facts.models)) == (
            f"127.0.0.1:{agent.port}",
            "us-east",
            ["catalogue-model"],
        )
        told = [beat.facts for beat in registry.beats if beat.HasField("facts")][-1]
        assert told.context_length == 4096
        assert told.engine_version == "0.32.0"
        await until(lambda: registry.beats[-1].load.running == 2)
        async with gateway_stream(registry, agent) as stream:
            await stream.write(opened(1))
            frames = await read_call(stream, 1)
        assert frames[-1].end.outcome == common_pb.OUTCOME_SUCCEEDED
        await until(lambda: registry.witnesses)
        assert registry.witnesses[0].sealed_context == b"sealed 1"
        assert registry.witnesses[0].usage.completion_tokens == 4
        assert oct((state_dir / "node.key").stat().st_mode & 0o777) == "0o600"
        assert await agent.stop() == 0
    assert registry.beats[-1].status == registry_pb.NODE_STATUS_DEAD
    assert marked_processes((state_dir / "engine.mark").read_text()) == []
    assert "cljt_" not in agent.log.read_text()


async def test_a_restarted_agent_keeps_its_identity_and_needs_no_second_token(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    async with agent_process(registry, tmp_path / "state"):
        await registry.status(ACTIVE)
    async with agent_process(registry, tmp_path / "state", token=""):
        await registry.status(ACTIVE)
    assert registry.joins == 1


async def test_a_machine_with_a_used_token_is_told_so_and_stops(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.tokens.clear()
    async with agent_process(registry, tmp_path / "state") as agent:
        assert await asyncio.wait_for(agent.process.wait(), 15) == 1
    assert "join token is unknown, used or expired" in agent.log.read_text()
    assert "cljt_" not in agent.log.read_text()
    assert marked_processes((tmp_path / "state" / "engine.mark").read_text()) == []


@pytest.mark.parametrize("who", ["none", "node", "identity", "other-ca"])
async def test_nobody_but_a_gateway_reaches_the_engine(registry: FakeRegistry, tmp_path: Path, who: str) -> None:
    async with agent_process(registry, tmp_path / "state") as agent:
        await registry.status(ACTIVE)
        if who == "other-ca":
            files = FakeRegistry(tmp_path / "elsewhere").ca.service("gateway")
            files = type(files)(files.cert_file, files.key_file, registry.ca.ca_file)
        elif who == "node":
            files = registry.ca.node(registry.node_id)
        else:
            files = registry.ca.service("identity")
        channels = Channels(files)
        target = f"127.0.0.1:{agent.port}"
        channel = channels.node(registry.node_id, target)
        if who == "none":
            channel = grpc.aio.secure_channel(
                target,
                grpc.ssl_channel_credentials(registry.ca.ca_file.read_bytes()),
                options=[("grpc.ssl_target_name_override", f"{registry.node_id}.node.crosslogic.internal")],
            )
        stub = rpc.NodeAgentServiceStub(channel)
        expected = {"none": "UNAVAILABLE", "other-ca": "UNAVAILABLE"}.get(who, "PERMISSION_DENIED")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Infer(pb.InferRequest(open=relay_open({"prompt": "a"})), timeout=5)
        assert refused.value.code().name == expected
        stream = stub.Relay()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stream.read()
        assert refused.value.code().name == expected
        await channel.close(None)
        await channels.close()


async def test_an_engine_that_is_killed_comes_back_and_the_fleet_reads_why(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    async with agent_process(registry, tmp_path / "state") as agent:
        await registry.status(ACTIVE)
        async with gateway_stream(registry, agent) as stream:
            await stream.write(opened(1, 10_000, delay_ms=5))
            await stream.read()
            first = agent.engine_pid
            os.kill(first, signal.SIGKILL)
            frames = await read_call(stream, 1)
            assert frames[-1].end.outcome == common_pb.OUTCOME_FAILED
            assert frames[-1].end.error.code == "ENGINE_ERROR"
            warming = await registry.status(WARMING)
            assert "SIGKILL" in warming.status_reason
            assert "fake engine serves" in warming.status_reason
            active = await registry.status(ACTIVE)
            assert active.load.engine_restarts == 1
            assert agent.engine_pid != first
            await stream.write(opened(2))
            frames = await read_call(stream, 2)
            assert frames[-1].end.outcome == common_pb.OUTCOME_SUCCEEDED


async def test_an_engine_that_cannot_start_is_tried_ever_more_slowly_and_says_why(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    command = ["/bin/sh", "-c", "echo no accelerator found; exit 3"]
    async with agent_process(registry, tmp_path / "state", engine=command) as agent:
        await until(lambda: registry.beats and registry.beats[-1].load.engine_restarts >= 2)
        assert "exit code 3" in registry.beats[-1].status_reason
        assert "no accelerator found" in registry.beats[-1].status_reason
        assert registry.beats[-1].status == WARMING
        assert await agent.stop() == 0


@pytest.mark.parametrize("victim", ["agent", "guard"])
async def test_no_engine_outlives_its_agent(registry: FakeRegistry, tmp_path: Path, victim: str) -> None:
    async with agent_process(registry, tmp_path / "state") as agent:
        await registry.status(ACTIVE)
        mark = (tmp_path / "state" / "engine.mark").read_text()
        engine = agent.engine_pid
        if victim == "agent":
            await agent.stop(signal.SIGKILL)
            await until(lambda: not marked_processes(mark))
        else:
            os.kill(os.getpgid(engine), signal.SIGKILL)
            await registry.status(WARMING)
            await registry.status(ACTIVE)
            assert agent.engine_pid != engine
        assert engine not in marked_processes(mark)


async def test_a_second_agent_start_never_leaves_two_engines(registry: FakeRegistry, tmp_path: Path) -> None:
    # An engine that ignores SIGTERM is still there when the next agent starts.
    command = ["/bin/sh", "-c", f"trap '' TERM; exec {sys.executable} {ENGINE} {{port}}"]
    mark_file = tmp_path / "state" / "engine.mark"
    async with agent_process(registry, tmp_path / "state", engine=command) as agent:
        await registry.status(ACTIVE)
        await agent.stop(signal.SIGKILL)
    async with agent_process(registry, tmp_path / "state", engine=command, CROSSLOGIC_ENGINE_STOP_S="0.5"):
        await registry.status(ACTIVE)
        engines = [
            pid
            for pid in marked_processes(mark_file.read_text())
            if b"guard.py" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(engines) == 1
    assert marked_processes(mark_file.read_text()) == []


async def test_a_registry_that_is_away_stops_no_inference_and_loses_no_witness(tmp_path: Path) -> None:
    registry = FakeRegistry(tmp_path)
    state_dir = tmp_path / "state"
    async with contextlib.AsyncExitStack() as stack:
        async with registry.serving():
            agent = await stack.enter_async_context(agent_process(registry, state_dir))
            await registry.status(ACTIVE)
        async with gateway_stream(registry, agent) as stream:
            for call_id in range(1, 31):
                await stream.write(opened(call_id))
                frames = await read_call(stream, call_id)
                assert frames[-1].end.outcome == common_pb.OUTCOME_SUCCEEDED
        await agent.stop(signal.SIGKILL)
        assert registry.witnesses == []
        async with registry.serving(), agent_process(registry, state_dir, token=""):
            await until(lambda: len(registry.witnesses) >= 30)
            await registry.status(ACTIVE)
    assert {witness.sealed_context for witness in registry.witnesses} == {b"sealed %d" % n for n in range(1, 31)}


async def test_certificates_are_renewed_while_streams_run(tmp_path: Path) -> None:
    registry = FakeRegistry(tmp_path, validity_s=3.0)
    async with registry.serving(), agent_process(registry, tmp_path / "state") as agent:
        await registry.status(ACTIVE)
        async with gateway_stream(registry, agent) as stream:
            await stream.write(opened(1, 400, delay_ms=10))
            frames = await read_call(stream, 1)
        assert frames[-1].end.outcome == common_pb.OUTCOME_SUCCEEDED
        assert registry.renewals >= 2
        # A handshake now meets the renewed certificate; the first has expired.
        async with gateway_stream(registry, agent) as stream:
            await stream.write(opened(2))
            assert (await read_call(stream, 2))[-1].end.outcome == common_pb.OUTCOME_SUCCEEDED


async def test_a_stop_tells_the_fleet_and_lets_a_running_stream_finish(registry: FakeRegistry, tmp_path: Path) -> None:
    async with agent_process(registry, tmp_path / "state") as agent:
        await registry.status(ACTIVE)
        async with gateway_stream(registry, agent) as stream:
            await stream.write(opened(1, 200, delay_ms=10))
            await stream.read()
            agent.process.send_signal(signal.SIGTERM)
            await registry.status(registry_pb.NODE_STATUS_DRAINING)
            frames = await read_call(stream, 1)
            assert frames[-1].end.outcome == common_pb.OUTCOME_SUCCEEDED
        assert await asyncio.wait_for(agent.process.wait(), 10) == 0
    assert registry.witnesses[0].outcome == common_pb.OUTCOME_SUCCEEDED


async def test_an_operators_drain_is_obeyed_and_taken_back(registry: FakeRegistry, tmp_path: Path) -> None:
    async with agent_process(registry, tmp_path / "state"):
        await registry.status(ACTIVE)
        registry.drain = True
        await registry.status(registry_pb.NODE_STATUS_DRAINING)
        registry.drain = False
        await registry.status(ACTIVE)
