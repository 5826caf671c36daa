"""The faults of the simulated engine do what tests of the suite ask of them, and its counts are the truth."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.engine_fixtures import COUNTED, MESSAGES, Caller, choice_ids
from tests.fakes.engine_server import RunningEngine, fetch, sim_engine

BODY = {"prompt": "fault", "max_tokens": 20, "temperature": 0}


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    with sim_engine("--decode-tps", "500", folder=tmp_path) as engine:
        caller = Caller(engine)
        yield caller
        caller.http.close()


def set_faults(caller: Caller, **faults: Any) -> None:
    answer = caller.http.post("/sim/faults", json=faults)
    assert answer.status_code == 200, answer.text


def record(engine: RunningEngine, request_id: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(fetch(f"{engine.base_url}/sim/requests/{request_id}"))
    return value


def streamed(caller: Caller, **body: Any) -> tuple[str, str]:
    """A stream's text up to its end, and how it ended: nothing for a clean end."""
    text = ""
    request = {"model": caller.engine.model, **BODY, **COUNTED, **body}
    try:
        with caller.http.stream(
            "POST", "/v1/completions", json=request, headers={"x-request-id": "r"}, timeout=1
        ) as answer:
            for part in answer.iter_text():
                text += part
    except httpx.HTTPError as error:
        return text, type(error).__name__
    return text, ""


def tokens_in(text: str) -> int:
    whole = [block for block in text.split("\n\n") if block.startswith("data: {") and block.endswith("}")]
    return len(choice_ids([json.loads(block[6:]) for block in whole if '"choices"' in block]))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_engine_that_refuses_names_its_status(caller: Caller, status: int) -> None:
    set_faults(caller, status=status, retry_after_s=3, requests=1)
    answer = caller.http.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 1})
    assert answer.status_code == answer.json()["error"]["code"] == status
    assert answer.headers["retry-after"] == "3"
    assert caller.http.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 1}).status_code == 200


def test_a_cut_connection_loses_no_token_that_was_sent(caller: Caller) -> None:
    set_faults(caller, cut_after_tokens=5)
    text, ended = streamed(caller)
    assert ended == "RemoteProtocolError"
    assert tokens_in(text) == 5
    assert "[DONE]" not in text
    assert record(caller.engine, "r")["finish_reason"] == "error"


def test_garbage_is_no_stream(caller: Caller) -> None:
    set_faults(caller, garbage_after_tokens=5)
    text, ended = streamed(caller)
    assert ended == "RemoteProtocolError"
    assert tokens_in(text) == 5


def test_a_dead_core_ends_a_stream_with_an_error_event(caller: Caller) -> None:
    set_faults(caller, error_after_tokens=3)
    text, ended = streamed(caller)
    assert ended == ""
    assert tokens_in(text) == 3
    *_, error, done = text.strip().split("\n\n")
    assert json.loads(error[6:])["error"]["code"] == 500
    assert done == "data: [DONE]"
    answer = caller.http.post("/v1/completions", json=BODY)
    assert answer.status_code == 500


def test_an_engine_told_to_stop_ends_streams_with_abort(caller: Caller) -> None:
    body = {"model": caller.engine.model, **BODY, "max_tokens": 4000, **COUNTED}
    with caller.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        caller.engine.process.terminate()
        data = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    reasons = [choice["finish_reason"] for chunk in data for choice in chunk["choices"]]
    assert reasons[-1] == "abort"
    assert caller.engine.process.wait(5) == 0


def test_a_hanging_stream_keeps_its_connection(caller: Caller) -> None:
    set_faults(caller, hang_after_tokens=4)
    text, ended = streamed(caller)
    assert ended == "ReadTimeout"
    assert tokens_in(text) == 4
    found = record(caller.engine, "r")
    assert found["generated"] == 4


def test_a_hanging_engine_goes_on_when_told(caller: Caller) -> None:
    set_faults(caller, hang=True)
    assert streamed(caller)[1] == "ReadTimeout"
    set_faults(caller)
    text, ended = streamed(caller)
    assert (tokens_in(text), ended) == (20, "")


def test_a_stream_cut_before_its_usage_has_all_its_tokens(caller: Caller) -> None:
    set_faults(caller, cut_before_usage=True)
    text, ended = streamed(caller)
    assert ended == "RemoteProtocolError"
    assert tokens_in(text) == 20
    assert '"choices":[]' not in text


@pytest.mark.parametrize("faults", [{"die_after_tokens": 7}, {"die_before_usage": True}])
def test_an_engine_that_dies_takes_its_streams_with_it(caller: Caller, faults: dict[str, Any]) -> None:
    set_faults(caller, **faults)
    text, ended = streamed(caller)
    assert ended
    assert "[DONE]" not in text
    assert caller.engine.process.wait(5) == 9


def test_a_slow_head_and_a_slow_pace_are_as_slow_as_told(caller: Caller) -> None:
    set_faults(caller, header_delay_s=0.3)
    begin = time.monotonic()
    caller.http.post("/v1/completions", json={**BODY, "max_tokens": 1})
    assert time.monotonic() - begin >= 0.3
    set_faults(caller, token_delay_s=0.05)
    begin = time.monotonic()
    caller.http.post("/v1/completions", json={**BODY, "max_tokens": 5})
    assert time.monotonic() - begin >= 0.2


def test_a_gone_client_is_charged_no_token_after_it_left(caller: Caller) -> None:
    seen = 0
    body = {"model": caller.engine.model, **BODY, "max_tokens": 4000, **COUNTED}
    with caller.http.stream("POST", "/v1/completions", json=body, headers={"x-request-id": "gone"}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                seen = json.loads(line[6:])["usage"]["completion_tokens"]
            if seen >= 20:
                break
    caller.engine.wait_idle(timeout_s=2)
    found = record(caller.engine, "gone")
    assert found["aborted"]
    assert found["finish_reason"] == "abort"
    assert seen <= found["generated"] <= seen + 25
    time.sleep(0.1)
    assert record(caller.engine, "gone")["generated"] == found["generated"]


def test_streams_of_one_engine_get_their_tokens_together(tmp_path: Path) -> None:
    with sim_engine("--step-ms", "50", "--prefill-tps", "0", folder=tmp_path) as engine:
        times: list[list[float]] = [[], []]
        sockets = [open_stream(engine, 10) for _ in range(2)]
        until = time.monotonic() + 5
        while min(map(len, times)) < 10 and time.monotonic() < until:
            for place, each in enumerate(sockets):
                try:
                    if b"data: {" in each.recv(65536):
                        times[place].append(time.monotonic())
                except BlockingIOError:
                    time.sleep(0.0005)
        for each in sockets:
            each.close()
        gaps = [min(abs(a - b) for b in times[1]) for a in times[0][2:8]]
        assert sorted(gaps)[len(gaps) // 2] < 0.02


def open_stream(engine: RunningEngine, tokens: int) -> socket.socket:
    body = json.dumps({"prompt": "together", "max_tokens": tokens, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    opened = socket.create_connection(("127.0.0.1", engine.port))
    opened.sendall(head.encode() + b"\r\n\r\n" + body)
    opened.setblocking(False)
    return opened


def test_a_slow_reader_gets_several_tokens_a_chunk_and_all_of_them(tmp_path: Path) -> None:
    # More than the sockets' buffers hold.
    tokens = 30_000
    options = ("--decode-tps", "0", "--prefill-tps", "0")
    with sim_engine(*options, folder=tmp_path, context_tokens=2 * tokens) as engine:
        body = {"model": engine.model, "prompt": "slow", "max_tokens": tokens, **COUNTED}
        text = ""
        with httpx.stream("POST", f"{engine.base_url}/v1/completions", json=body, trust_env=False) as answer:
            time.sleep(1)
            text = "".join(answer.iter_text())
        chunks = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
        assert len(choice_ids(chunks)) == chunks[-1]["usage"]["completion_tokens"] == tokens
        assert len(chunks) < tokens


def test_more_sequences_than_fit_wait_their_turn(tmp_path: Path) -> None:
    with sim_engine("--max-num-seqs", "2", "--decode-tps", "100", folder=tmp_path) as engine:
        sockets = [open_stream(engine, 30) for _ in range(5)]
        time.sleep(0.15)
        now = engine.metrics()
        assert now["num_requests_running"] == 2
        assert now["num_requests_waiting"] == 3
        engine.wait_idle()
        for each in sockets:
            each.close()
        state = json.loads(fetch(f"{engine.base_url}/sim/state"))
        assert state["generated_tokens"] == 150
        assert state["peak_running"] == 2


def test_a_unix_socket_serves_as_a_port_does(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with sim_engine(folder=tmp_path):
        pass
    import subprocess
    import sys

    process = subprocess.Popen(
        [sys.executable, "-m", "crosslogic_sim_engine", "--uds", str(path), "--model", "m", "--phase", "random"],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert b"unix:" in process.stdout.readline()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://engine") as http:
            answer = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 3})
            assert answer.json()["usage"]["completion_tokens"] == 3
            embedded = http.post("/v1/embeddings", json={"input": ["a", "b"], "model": "m"}).json()
            assert [len(each["embedding"]) for each in embedded["data"]] == [16, 16]
    finally:
        process.terminate()
        assert process.wait(5) == 0
        process.stdout.close() if process.stdout else None
