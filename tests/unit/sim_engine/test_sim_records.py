"""What the simulated engine remembers is bounded, and a repeated id loses no count."""

import pytest

from crosslogic_sim_engine.errors import ApiError
from crosslogic_sim_engine.faults import NO_FAULTS, FaultBoard, Faults, parse_faults
from crosslogic_sim_engine.parsing import parse_generation
from crosslogic_sim_engine.records import Counters, Records


def test_the_oldest_records_make_room() -> None:
    records = Records(limit=3)
    for number in range(10):
        records.begin(str(number), path="/", stream=False, prompt_tokens=1, cache_salt="")
    assert len(records) == 3
    assert records.get("6") is None
    assert records.get("9") is not None


def test_a_request_sent_twice_is_seen_as_two() -> None:
    records = Records()
    records.begin("a", path="/", stream=False, prompt_tokens=1, cache_salt="").generated = 7
    again = records.begin("a", path="/", stream=False, prompt_tokens=1, cache_salt="")
    assert (again.earlier_attempts, again.earlier_generated, again.generated) == (1, 7, 0)
    assert len(records) == 1


def test_metrics_are_named_as_vllm_names_them() -> None:
    text = Counters().metrics(model="m", running=2, waiting=1, used_part=0.5).decode()
    for line in (
        'vllm:num_requests_running{engine="0",model_name="m"} 2.0',
        'vllm:num_requests_waiting{engine="0",model_name="m"} 1.0',
        'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5',
        'vllm:generation_tokens_total{engine="0",model_name="m"} 0.0',
        'vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 0.0',
    ):
        assert line in text.splitlines()


def test_faults_for_some_requests_end_with_them() -> None:
    board = FaultBoard(Faults(requests=2, status=503))
    assert [board.for_next_request().status for _ in range(4)] == [503, 503, None, None]
    board.replace(parse_faults("{}"))
    assert board.for_next_request() is NO_FAULTS


def test_a_misspelt_fault_is_refused_rather_than_ignored() -> None:
    with pytest.raises(ValueError, match="unknown field"):
        parse_faults('{"hang_after_token": 3}')


def test_a_prompt_that_fills_the_context_is_refused_and_one_below_is_cut() -> None:
    ids = [400] * 100
    with pytest.raises(ApiError, match="maximum context length is 100"):
        parse_generation("completions", {"prompt": ids}, served="m", context_tokens=100)
    parsed = parse_generation("completions", {"prompt": ids[:90], "max_tokens": 50}, served="m", context_tokens=100)
    assert parsed.max_tokens == 10
