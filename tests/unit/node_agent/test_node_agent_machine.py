"""What the machine tells of itself, with a driver and without."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.metrics import Metrics
from crosslogic_node_agent.commands import MAX_AT_ONCE, CommandError, Commands, Done
from crosslogic_node_agent.domain import CallCounts, Ending, EngineLoad, TokenCount
from crosslogic_node_agent.logs_command import LogCollector
from crosslogic_node_agent.machine import LocalMachine
from crosslogic_node_agent.metrics import AgentMetrics
from crosslogic_node_agent.nvml import Gpus, open_gpus
from crosslogic_node_agent.report import hit_rate
from crosslogic_node_agent.supervisor import ran_out_of_memory

GIB = 2**30


class FakeNvml:
    """NVIDIA's library with two cards. `fails` names functions that a card or driver does not have."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, *fails: str) -> None:
        self._fails = fails

    def _may(self, name: str) -> None:
        if name in self._fails:
            raise self.NVMLError("not supported")

    def nvmlInit(self) -> None:
        self._may("init")

    def nvmlSystemGetDriverVersion(self) -> str:
        self._may("version")
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:
        self._may("count")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == 1:
            self._may("second")
        return index

    def nvmlDeviceGetName(self, handle: int) -> Any:
        self._may("name")
        return b"NVIDIA H100 80GB HBM3" if handle == 0 else "NVIDIA H100 80GB HBM3"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        self._may("utilization")
        return SimpleNamespace(gpu=(35, 90)[handle], memory=10)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        self._may("temperature")
        return (61, 72)[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        self._may("memory")
        return SimpleNamespace(total=80 * GIB, used=(10 + handle) * GIB, free=0)


def machine(tmp_path: Path, *fails: str) -> LocalMachine:
    return LocalMachine(gpus=Gpus(FakeNvml(*fails)), disk=tmp_path)


def test_machine_tells_the_busiest_and_hottest_card_and_the_sums_of_memory(tmp_path: Path) -> None:
    state = machine(tmp_path).look()
    assert (state.gpu_type, state.gpu_count, state.driver_version) == ("NVIDIA H100 80GB HBM3", 2, "570.86.15")
    assert (state.gpu_utilization, state.gpu_temperature_celsius) == (0.9, 72)
    assert (state.vram_used_bytes, state.vram_total_bytes) == (21 * GIB, 160 * GIB)
    assert 0 < state.disk_free_bytes < state.disk_total_bytes


@pytest.mark.parametrize("missing", ["version", "count", "second", "name", "utilization", "temperature", "memory"])
def test_figure_that_a_driver_does_not_tell_takes_no_other_away(tmp_path: Path, missing: str) -> None:
    state = machine(tmp_path, missing).look()
    assert state.disk_total_bytes > 0
    assert state.gpu_count == {"count": 0, "second": 1}.get(missing, 2)
    if missing not in ("temperature", "count"):
        assert state.gpu_temperature_celsius >= 61
    if missing not in ("memory", "count"):
        assert state.vram_total_bytes >= 80 * GIB


def test_machine_without_a_driver_has_no_card_and_a_disk(tmp_path: Path) -> None:
    assert open_gpus(FakeNvml("init")) is None
    state = LocalMachine(gpus=None, disk=tmp_path / "not" / "yet" / "there").look()
    assert state.gpu_count == 0
    assert state.disk_total_bytes > 0


def test_calls_are_counted_between_two_looks_and_those_whose_client_left_are_nobodys_fault() -> None:
    metrics = AgentMetrics(Metrics())
    metrics.ended(Ending.SUCCEEDED, TokenCount(), 1.0, 0.1)
    metrics.ended(Ending.FAILED, TokenCount(), 1.0, 0.3)
    metrics.ended(Ending.TIMED_OUT, TokenCount(), 1.0, None)
    metrics.ended(Ending.CLIENT_DISCONNECTED, TokenCount(), 1.0, 9.0)
    assert metrics.take_calls() == CallCounts(calls=3, failed=2, first_byte_ms=200)
    assert metrics.take_calls() == CallCounts()


def test_hit_rate_is_that_of_the_time_between_and_no_restart_makes_it_strange() -> None:
    before = EngineLoad(prefix_queries_total=1000, prefix_hits_total=500)
    assert hit_rate(before, EngineLoad(prefix_queries_total=1100, prefix_hits_total=580)) == 0.8
    assert hit_rate(before, EngineLoad(prefix_queries_total=10, prefix_hits_total=5)) == 0.0
    assert hit_rate(before, before) == 0.0


def test_engines_last_words_tell_of_memory() -> None:
    assert ran_out_of_memory("exit code 1. torch.OutOfMemoryError: CUDA out of memory")
    assert not ran_out_of_memory("killed by SIGKILL")


async def told(commands: Commands) -> list[pb.NodeCommandOutcome]:
    async with asyncio.timeout(10):
        while not (outcomes := commands.take_outcomes()):
            await commands.changed.wait()
            commands.changed.clear()
        return outcomes


async def test_outcome_is_told_also_of_a_command_that_crashes_or_is_too_many() -> None:
    wait = asyncio.Event()

    async def crash(_command: pb.NodeCommand) -> Done:
        raise ValueError("with a secret in it")

    async def slow(_command: pb.NodeCommand) -> Done:
        await wait.wait()
        return Done("slept")

    commands = Commands({"reload_certificate": crash, "collect_logs": slow})
    async with commands.running():
        commands.take(pb.NodeCommand(id="a", reload_certificate=pb.ReloadCertificate()))
        [outcome] = await told(commands)
        assert (outcome.command_id, outcome.done, outcome.detail) == ("a", False, "it failed: ValueError")
        await asyncio.sleep(0.01)  # until its place is free
        for number in range(MAX_AT_ONCE + 1):
            for _ in range(2):
                commands.take(pb.NodeCommand(id=str(number), collect_logs=pb.CollectLogs()))
        outcomes = await told(commands)
        assert {outcome.command_id for outcome in outcomes} == {str(MAX_AT_ONCE)}
        assert not outcomes[0].done
        wait.set()
        finished: list[pb.NodeCommandOutcome] = []
        while len(finished) < MAX_AT_ONCE:
            finished += await told(commands)
        assert sorted(outcome.command_id for outcome in finished) == [str(number) for number in range(MAX_AT_ONCE)]
        assert all(outcome.done for outcome in finished)


async def test_log_is_read_from_its_end_and_one_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    collector = LogCollector({pb.LOG_SOURCE_ENGINE: log})

    def asked(source: "pb.LogSource.ValueType", max_bytes: int = 0) -> pb.NodeCommand:
        return pb.NodeCommand(collect_logs=pb.CollectLogs(source=source, max_bytes=max_bytes))

    with pytest.raises(CommandError, match="No such file"):
        await collector.carry(asked(pb.LOG_SOURCE_ENGINE))
    with pytest.raises(CommandError, match="no such log"):
        await collector.carry(asked(pb.LOG_SOURCE_AGENT))
    log.write_bytes(b"0123456789" * 200_000)
    assert (await collector.carry(asked(pb.LOG_SOURCE_ENGINE, 4))).data == b"6789"
    assert len((await collector.carry(asked(pb.LOG_SOURCE_ENGINE))).data) == 65_536
    assert len((await collector.carry(asked(pb.LOG_SOURCE_ENGINE, 2**31))).data) == 1_048_576
