"""The agent as a process when its cloud takes the machine, and when its registry tells it what to do."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic.registry.v1 import registry_pb2 as registry_pb
from tests.fakes.node_agent_bench import relay_open
from tests.fakes.node_agent_clouds import FakeAws, FakeAzure
from tests.fakes.node_agent_process import agent_process, gateway_stream, read_call
from tests.fakes.node_agent_registry import TOKEN, FakeRegistry

ACTIVE = registry_pb.NODE_STATUS_ACTIVE
DRAINING = registry_pb.NODE_STATUS_DRAINING
DEAD = registry_pb.NODE_STATUS_DEAD


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry(tmp_path)
    async with registry.serving():
        yield registry


def opened(call_id: int, tokens: int, **steer: Any) -> pb.RelayRequest:
    request = relay_open({"prompt": "a", "max_tokens": tokens, "x": steer}, stream=True, sealed_context=b"sealed")
    return pb.RelayRequest(frames=[pb.RelayRequestFrame(call_id=call_id, open=request)])


async def test_spot_notice_drains_at_once_lets_finish_what_fits_and_hands_the_rest_over(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    aws = FakeAws()
    # Heartbeats are seldom: what is told in between is told because it is news.
    registry.interval_ms = 30_000
    async with aws.serving():
        spot: dict[str, Any] = {
            "CROSSLOGIC_SPOT_SOURCES": "aws",
            "CROSSLOGIC_SPOT_METADATA_URL": aws.url,
            "CROSSLOGIC_SPOT_HANDOVER_S": "0",
            "CROSSLOGIC_SPOT": "1",
        }
        async with agent_process(registry, tmp_path / "state", **spot) as agent:
            await registry.status(ACTIVE)
            assert registry.beats[0].facts.spot
            async with gateway_stream(registry, agent) as stream:
                await stream.write(opened(1, 20, delay_ms=50))
                await stream.write(opened(2, 100_000, delay_ms=50))
                await stream.read()
                draining = asyncio.create_task(registry.status(DRAINING))
                await asyncio.sleep(0)
                aws.interrupt(in_s=6)
                told = await draining
                assert told.status_reason.startswith("spot notice from aws: terminate")
                assert told.spot_notice.kind == registry_pb.SPOT_NOTICE_KIND_TERMINATION
                assert told.spot_notice.HasField("deadline_time")
                # Both calls on one stream: read until both have ended.
                ends: dict[int, pb.RelayEnd] = {}
                while len(ends) < 2:
                    message = await asyncio.wait_for(stream.read(), 20)
                    assert isinstance(message, pb.RelayResponse)
                    ends |= {frame.call_id: frame.end for frame in message.frames if frame.HasField("end")}
            assert ends[1].outcome == common_pb.OUTCOME_SUCCEEDED
            assert (ends[2].outcome, ends[2].error.code) == (common_pb.OUTCOME_FAILED, "NODE_DRAINING")
            assert await asyncio.wait_for(agent.process.wait(), 20) == 0
    assert registry.beats[-1].status == DEAD
    assert registry.beats[-1].status_reason.startswith("spot notice from aws")


async def test_azure_may_take_the_machine_as_soon_as_it_is_empty(registry: FakeRegistry, tmp_path: Path) -> None:
    azure = FakeAzure()
    async with azure.serving():
        spot: dict[str, Any] = {"CROSSLOGIC_SPOT_SOURCES": "azure", "CROSSLOGIC_SPOT_METADATA_URL": azure.url}
        async with agent_process(registry, tmp_path / "state", **spot) as agent:
            await registry.status(ACTIVE)
            event_id = azure.schedule(in_s=600)
            assert await asyncio.wait_for(agent.process.wait(), 20) == 0
    assert azure.started == [event_id]


async def test_hint_of_the_end_is_told_and_taken_back_and_the_node_serves_on(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    aws = FakeAws(rebalance=True)
    async with aws.serving():
        spot: dict[str, Any] = {"CROSSLOGIC_SPOT_SOURCES": "aws", "CROSSLOGIC_SPOT_METADATA_URL": aws.url}
        async with agent_process(registry, tmp_path / "state", **spot) as agent:
            told = await registry.beat(lambda beat: beat.spot_notice.kind == registry_pb.SPOT_NOTICE_KIND_RISK)
            assert told.spot_notice.source == "aws"
            assert told.status != DRAINING
            await registry.status(ACTIVE)
            async with gateway_stream(registry, agent) as stream:
                await stream.write(opened(1, 4))
                frames = await read_call(stream, 1)
            assert frames[-1].end.outcome == common_pb.OUTCOME_SUCCEEDED
            aws.rebalance = False
            await registry.beat(
                lambda beat: (
                    beat.HasField("spot_notice") and beat.spot_notice.kind == registry_pb.SPOT_NOTICE_KIND_UNSPECIFIED
                )
            )


async def test_orders_are_obeyed_when_they_come_and_not_at_the_next_heartbeat(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.interval_ms = 30_000
    async with agent_process(registry, tmp_path / "state") as agent:
        await registry.status(ACTIVE)
        registry.drain = True
        registry.push()
        await registry.status(DRAINING, timeout_s=10)
        registry.drain = False
        registry.push()
        await registry.status(ACTIVE, timeout_s=10)
        registry.push(
            registry_pb.NodeCommand(
                id="a",
                collect_logs=registry_pb.CollectLogs(source=registry_pb.LOG_SOURCE_ENGINE, max_bytes=5),
            ),
            registry_pb.NodeCommand(id="b", collect_logs=registry_pb.CollectLogs()),
            registry_pb.NodeCommand(id="c", reload_certificate=registry_pb.ReloadCertificate()),
            registry_pb.NodeCommand(id="d"),
        )
        outcomes: dict[str, registry_pb.NodeCommandOutcome] = {}

        def gathered(beat: registry_pb.HeartbeatStreamRequest) -> bool:
            outcomes.update({outcome.command_id: outcome for outcome in beat.outcomes})
            return len(outcomes) == 4

        await registry.beat(gathered)
        assert outcomes["a"].done
        assert outcomes["a"].data == agent.state_dir.joinpath("engine.log").read_bytes()[-5:]
        assert not outcomes["b"].done
        assert outcomes["c"].done
        assert registry.renewals == 1
        assert not outcomes["d"].done


async def test_machines_metrics_come_now_and_then(registry: FakeRegistry, tmp_path: Path) -> None:
    async with agent_process(registry, tmp_path / "state", CROSSLOGIC_NODE_METRICS_S="0.2") as agent:
        await registry.status(ACTIVE)
        async with gateway_stream(registry, agent) as stream:
            await stream.write(opened(1, 4))
            await read_call(stream, 1)
        told = await registry.beat(lambda beat: beat.metrics.calls == 1)
        assert told.metrics.failed_calls == 0
        assert told.metrics.disk_total_bytes > told.metrics.disk_free_bytes > 0


async def test_machine_that_is_shut_down_before_its_notice_runs_out_is_left_in_time(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    notice: dict[str, Any] = {"CROSSLOGIC_SPOT_SOURCES": "file", "CROSSLOGIC_SHUTDOWN_GRACE_S": "1"}
    async with agent_process(registry, tmp_path / "state", **notice) as agent:
        await registry.status(ACTIVE)
        async with gateway_stream(registry, agent) as stream:
            await stream.write(opened(1, 100_000, delay_ms=50))
            await stream.read()
            draining = asyncio.create_task(registry.status(DRAINING))
            await asyncio.sleep(0)
            (agent.state_dir / "spot-notice").touch()
            await draining
            agent.process.send_signal(signal.SIGTERM)
            frames = await read_call(stream, 1)
        assert frames[-1].end.error.code == "NODE_DRAINING"
        assert await asyncio.wait_for(agent.process.wait(), 20) == 0


async def test_version_on_trial_that_does_not_serve_ends_to_be_started_again_and_one_that_does_stays(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    directory = tmp_path / "agent"
    (directory / "versions").mkdir(parents=True)
    (directory / "update.json").write_text('{"version": "0.2.0", "previous": "versions/0.1.0", "starts": 1}')
    settings: dict[str, Any] = {"CROSSLOGIC_UPDATE_DIR": str(directory), "CROSSLOGIC_UPDATE_TRIAL_S": "2"}
    async with agent_process(registry, tmp_path / "sick", engine=["false"], **settings) as agent:
        assert await asyncio.wait_for(agent.process.wait(), 30) == 75
    assert (directory / "update.json").exists()
    registry.tokens.add(TOKEN)
    settings["CROSSLOGIC_UPDATE_TRIAL_S"] = "60"
    async with agent_process(registry, tmp_path / "well", **settings) as agent, asyncio.timeout(30):
        while (directory / "update.json").exists():
            await asyncio.sleep(0.05)
        assert await agent.stop() == 0


async def test_update_that_is_not_signed_for_this_fleet_is_refused_and_the_node_serves_on(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"CROSSLOGIC_UPDATE_DIR": str(tmp_path)}
    async with agent_process(registry, tmp_path / "state", **settings):
        await registry.status(ACTIVE)
        update = registry_pb.UpdateAgent(version="9", location="/x", sha256=bytes(32), signature=bytes(64))
        registry.push(registry_pb.NodeCommand(id="a", update_agent=update))
        told = await registry.beat(lambda beat: bool(beat.outcomes))
        assert (told.outcomes[0].done, told.outcomes[0].detail) == (False, "this node has no key to check updates with")
        assert told.status == ACTIVE
