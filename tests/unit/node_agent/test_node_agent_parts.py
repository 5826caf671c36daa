"""The smaller parts."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.process import StartError
from crosslogic_common.settings import SettingsError
from crosslogic_common.tls import Identity
from crosslogic_node_agent.domain import Capacity, EngineAddress, EngineFacts, EngineLoad, EngineState, EngineStatus
from crosslogic_node_agent.engine_api import EngineApi, EngineFailureError, parse_load
from crosslogic_node_agent.engine_process import last_lines
from crosslogic_node_agent.identity import Certificate, IdentityFiles, is_valid
from crosslogic_node_agent.measure import Measurement
from crosslogic_node_agent.node_life import NodeLife
from crosslogic_node_agent.report import max_sequences_of, tokens_per_sec
from crosslogic_node_agent.settings import NodeAgentSettings, price
from crosslogic_node_agent.settings_check import check_together
from crosslogic_node_agent.whole_answer import AnswerError, read_count
from tests.fakes.test_ca import CertificateMaker

EXTERNAL = {
    "CROSSLOGIC_TUNNEL": "1",
    "CROSSLOGIC_ENGINE_URL": "",
    "CROSSLOGIC_EXTERNAL_URL": "https://models.example/v1",
    "CROSSLOGIC_EXTERNAL_KEY": "sk-1",
}
FACTS = EngineFacts(version="0.32.0", served_models=("m",), context_length=4096)


def test_the_engines_metrics_are_summed_over_its_parts_and_nonsense_is_left_out() -> None:
    text = """# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0"} 1.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} 0.7
vllm:generation_tokens_total{engine="0"} 1.2e+06
vllm:generation_tokens_created{engine="0"} 1.7e+09
vllm:prompt_tokens_total{engine="0"} ...
"""
    load = parse_load(text, read_at=1.0)
    assert (load.running, load.waiting, load.generation_tokens_total, load.prompt_tokens_total) == (7, 1, 1_200_000, 0)
    assert load.kv_cache_usage == pytest.approx(0.6)


def test_a_restarted_engines_counter_gives_no_negative_speed() -> None:
    before = EngineLoad(generation_tokens_total=1000, read_at=10.0)
    assert tokens_per_sec(before, EngineLoad(generation_tokens_total=1500, read_at=12.0)) == 250.0
    assert tokens_per_sec(before, EngineLoad(generation_tokens_total=3, read_at=12.0)) == 0.0
    assert tokens_per_sec(EngineLoad(), EngineLoad(generation_tokens_total=9, read_at=12.0)) == 0.0


def test_a_node_is_active_only_with_a_well_engine_and_while_nobody_drains_it() -> None:
    life = NodeLife()
    ready = EngineState(EngineStatus.READY)
    assert life.status(ready)[0] == pb.NODE_STATUS_ACTIVE
    assert life.status(EngineState(EngineStatus.DOWN, "died")) == (pb.NODE_STATUS_WARMING, "died")
    life.drain_asked(True)
    assert life.status(ready)[0] == pb.NODE_STATUS_DRAINING
    assert life.changed.is_set()
    life.drain_asked(False)
    assert life.status(ready)[0] == pb.NODE_STATUS_ACTIVE
    life.stop()
    life.drain_asked(False)
    assert life.status(ready)[0] == pb.NODE_STATUS_DRAINING


@pytest.mark.parametrize(
    ("command", "sequences"),
    [
        ((), 0),
        (("vllm",), 0),
        (("vllm", "--max-num-seqs", "64", "-x"), 64),
        (("vllm", "--max-num-seqs=8"), 8),
        (("vllm", "--max-num-seqs"), 0),
        (("vllm", "--max-num-seqs", "many"), 0),
    ],
)
def test_engines_command_tells_its_width_and_an_agent_without_one_starts_all_the_same(
    command: tuple[str, ...], sequences: int
) -> None:
    assert max_sequences_of(command) == sequences


class MeasuredEngine:
    """Answers completions after as long as its speed needs."""

    def __init__(self, *, fails: bool = False) -> None:
        self.calls = 0
        self._fails = fails

    async def fetch(self, method: str, path: str, body: bytes = b"", *, timeout_s: float) -> tuple[int, bytes]:
        self.calls += 1
        if self._fails:
            raise EngineFailureError("gone")
        asked = msgspec.json.decode(body)["max_tokens"]
        await asyncio.sleep(0.001 * asked)
        usage = {"prompt_tokens": len(msgspec.json.decode(body)["prompt"].split()), "completion_tokens": asked}
        return 200, msgspec.json.encode({"usage": usage})


def measurement(engine: MeasuredEngine, file: Path, **more: Any) -> Measurement:
    return Measurement(api=cast("EngineApi", engine), file=file, enabled=True, **more)


async def test_an_engine_is_measured_once_for_each_version_of_it(tmp_path: Path) -> None:
    engine = MeasuredEngine()
    file = tmp_path / "capacity.json"
    first = await measurement(engine, file).capacity(FACTS)
    assert 0 < first.decode_tokens_per_sec <= 1000
    assert first.max_tokens_per_sec > 4 * first.decode_tokens_per_sec
    assert first.prefill_tokens_per_sec > 0
    calls = engine.calls
    assert await measurement(engine, file).capacity(FACTS) == first
    assert engine.calls == calls
    await measurement(engine, file).capacity(replace(FACTS, version="0.33.0"))
    assert engine.calls > calls
    fixed = await measurement(engine, file, fixed_max_tokens_per_sec=77.0).capacity(replace(FACTS, version="0.33.0"))
    assert fixed.max_tokens_per_sec == 77.0


async def test_an_engine_that_cannot_be_measured_still_serves(tmp_path: Path) -> None:
    assert await measurement(MeasuredEngine(fails=True), tmp_path / "c").capacity(FACTS) == Capacity()
    assert not (tmp_path / "c").exists()


def test_why_an_engine_died_is_read_from_the_end_of_this_runs_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("an old death\n")
    start = log.stat().st_size
    log.write_text(log.read_text() + "loading\n\nTraceback\n  torch.OutOfMemoryError: CUDA out of memory\n")
    assert last_lines(log, start) == "loading | Traceback | torch.OutOfMemoryError: CUDA out of memory"
    assert last_lines(tmp_path / "none", 0) == ""


def test_a_certificate_that_is_not_for_our_key_or_not_a_nodes_is_no_identity(tmp_path: Path) -> None:
    ca = CertificateMaker(tmp_path / "ca")
    files = IdentityFiles(tmp_path)
    assert files.certificate() is None
    files.request()
    key = (tmp_path / "node.key").read_bytes()
    node_id = "0198c0de-0000-7000-8000-000000000000"
    files.store(ca.node(node_id).cert_file.read_bytes(), ca.ca_file.read_bytes())
    assert files.certificate() is None
    assert (tmp_path / "node.key").read_bytes() == key
    issued = ca.node(node_id)
    (tmp_path / "node.key").write_bytes(issued.key_file.read_bytes())
    files.store(issued.cert_file.read_bytes(), ca.ca_file.read_bytes())
    held = files.certificate()
    assert held is not None
    assert held.node.name == node_id
    service = ca.service("gateway")
    (tmp_path / "node.key").write_bytes(service.key_file.read_bytes())
    files.store(service.cert_file.read_bytes(), ca.ca_file.read_bytes())
    assert files.certificate() is None


def test_a_certificate_is_renewed_at_half_of_its_life_and_not_used_after_it() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    held = Certificate(Identity("node", "n"), start, start + timedelta(hours=1))
    assert held.half_life() == start + timedelta(minutes=30)
    assert is_valid(held, start + timedelta(minutes=59))
    assert not is_valid(held, start + timedelta(hours=1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:8000", EngineAddress("127.0.0.1", 8000)),
        ("unix:/run/engine.sock", EngineAddress(socket_path="/run/engine.sock")),
        ("https://a:1", None),
        ("http://a", None),
        ("http://a:1/v1", None),
        ("unix:relative", None),
    ],
)
def test_the_engines_address_is_read_or_refused(text: str, expected: EngineAddress | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="must be"):
            EngineAddress.parse(text)
    else:
        assert EngineAddress.parse(text) == expected


def test_an_operator_reads_every_problem_with_the_settings_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        NodeAgentSettings.from_env({"CROSSLOGIC_ENGINE_COMMAND": "vllm serve", "CROSSLOGIC_ENGINE_ENV": "[]"})
    for name in (
        "REGISTRY_TARGET",
        "STATE_DIR",
        "REGION",
        "MODEL",
        "ENGINE_COMMAND",
        "ENGINE_ENV",
    ):
        assert f"CROSSLOGIC_{name} " in str(error.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "CROSSLOGIC_LISTEN is missing"),
        ({"CROSSLOGIC_TUNNEL": "1"}, ""),
        ({"CROSSLOGIC_LISTEN": "127.0.0.1:1"}, ""),
        (
            {"CROSSLOGIC_TUNNEL": "1", "CROSSLOGIC_AIR_GAPPED": "1", "CROSSLOGIC_SPOT_SOURCES": "file,aws"},
            "CROSSLOGIC_SPOT_SOURCES names aws",
        ),
        ({"CROSSLOGIC_TUNNEL": "1", "CROSSLOGIC_AIR_GAPPED": "1", "CROSSLOGIC_SPOT_SOURCES": "file,signal"}, ""),
        ({"CROSSLOGIC_TUNNEL": "1", "CROSSLOGIC_ENGINE_URL": ""}, "Set one of CROSSLOGIC_ENGINE_URL"),
        ({**EXTERNAL, "CROSSLOGIC_ENGINE_URL": "http://127.0.0.1:8000"}, "Set one of CROSSLOGIC_ENGINE_URL"),
        (EXTERNAL, ""),
        ({**EXTERNAL, "CROSSLOGIC_ENGINE_COMMAND": '["vllm"]'}, "starts no engine"),
        ({**EXTERNAL, "CROSSLOGIC_EXTERNAL_KEY": "two words"}, "CROSSLOGIC_EXTERNAL_KEY must be one word"),
        ({**EXTERNAL, "CROSSLOGIC_EXTERNAL_KEY": "x\r\nHost: y"}, "CROSSLOGIC_EXTERNAL_KEY must be one word"),
        ({**EXTERNAL, "CROSSLOGIC_EXTERNAL_URL": "http://models.example/v1"}, "must be https://"),
        ({**EXTERNAL, "CROSSLOGIC_AIR_GAPPED": "1"}, "CROSSLOGIC_AIR_GAPPED=1 asks nothing outside"),
        ({**EXTERNAL, "CROSSLOGIC_AIR_GAPPED": "1", "CROSSLOGIC_EXTERNAL_NETWORKS": "10.0.0.0/8"}, ""),
        (
            {"CROSSLOGIC_LISTEN": "h:1", "CROSSLOGIC_ENGINE_COMMAND": '["vllm", "-tp={tensor_parallel}"]'},
            "only .*=store",
        ),
    ],
)
def test_settings_that_do_not_go_together_stop_the_start_with_a_sentence(
    tmp_path: Path, settings: dict[str, str], says: str
) -> None:
    (tmp_path / "ca.pem").touch()
    needed = {
        "CROSSLOGIC_REGISTRY_TARGET": "r:1",
        "CROSSLOGIC_REGISTRY_JOIN_TARGET": "r:2",
        "CROSSLOGIC_TLS_CA_FILE": str(tmp_path / "ca.pem"),
        "CROSSLOGIC_STATE_DIR": str(tmp_path / "state"),
        "CROSSLOGIC_REGION": "us-east",
        "CROSSLOGIC_MODEL": "m",
        "CROSSLOGIC_ENGINE_URL": "http://127.0.0.1:8000",
    }
    read = NodeAgentSettings.from_env(needed | settings)
    if not says:
        check_together(read)
        return
    with pytest.raises(StartError, match=says):
        check_together(read)


@pytest.mark.parametrize("wrong", ["aws,oci", "file;signal"])
def test_source_of_notices_that_there_is_not_is_named(wrong: str) -> None:
    with pytest.raises(SettingsError, match="CROSSLOGIC_SPOT_SOURCES"):
        NodeAgentSettings.from_env({"CROSSLOGIC_SPOT_SOURCES": wrong})


@pytest.mark.parametrize(
    ("text", "picodollars"),
    [("0", 0), ("1.29", 1_290_000_000_000), ("0.000000000001", 1), ("98.32", 98_320_000_000_000)],
)
def test_hourly_price_is_exact(text: str, picodollars: int) -> None:
    assert price(text) == picodollars


@pytest.mark.parametrize("text", ["", "NaN", "-1", "1e30", "0.0000000000001", "Infinity", "$1"])
def test_price_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="dollars"):
        price(text)


def test_usage_is_read_in_every_apis_words_and_never_made_up() -> None:
    assert read_count(b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}').completion_tokens == 4
    assert read_count(b'{"usage": {"input_tokens": 5, "output_tokens": 6}}').prompt_tokens == 5
    assert read_count(b"{}").source == "none"
    for raw in (b"[]", b"{", b'{"usage": 3}', b'{"choices": [{"finish_reason": "abort"}]}'):
        with pytest.raises(AnswerError):
            read_count(raw)
