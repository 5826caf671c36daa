"""Whatever comes in: the error that OpenAI's client knows, at once, for nothing; and the gateway lives on."""

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from crosslogic_dev.suite import Suite
from crosslogic_dev.waiting import wait_until
from tests.e2e.conftest import simulated
from tests.fakes.e2e_clients import client, client_sending
from tests.fakes.e2e_ledger import Ledger
from tests.fakes.e2e_raw import RawAnswer, median_ms, send_raw
from tests.fakes.e2e_sim import Sims

WITHIN_MS = 50.0
HEAD_TIMEOUT_S = 1.0
ELEVEN_MB = 11 * 1024 * 1024
CHAT = "/v1/chat/completions"
WRONG_KEY = "clsk_live_" + "0" * 32


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    settings = {
        "gateway": {"CROSSLOGIC_HEAD_TIMEOUT_S": str(HEAD_TIMEOUT_S)},
        "accountant": {"CROSSLOGIC_WITNESS_GRACE_S": "0.5"},
    }
    with simulated(settings=settings) as started:
        yield started


@pytest.fixture(autouse=True)
def lives_on(suite: Suite) -> Iterator[None]:
    """After each of these the gateway is the same process and answers."""
    before = suite.pid("gateway")
    yield
    assert suite.pid("gateway") == before
    assert httpx.get(f"{suite.base_url}/ready", timeout=5, trust_env=False).status_code == 200


def _chat(suite: Suite, **changes: object) -> bytes:
    messages = [{"role": "user", "content": "x"}]
    return json.dumps({"model": suite.model_name, "messages": messages, "max_tokens": 4, **changes}).encode()


def _bodies(suite: Suite) -> dict[str, tuple[bytes, type[openai.APIStatusError], int]]:
    """Bad bodies: what the official client must raise, and the status."""
    bad, missing = openai.BadRequestError, openai.NotFoundError
    no_messages = json.dumps({"model": suite.model_name}).encode()
    return {
        "not JSON": (b"{not json", bad, 400),
        "cut JSON": (_chat(suite)[:-3], bad, 400),
        "empty": (b"", bad, 400),
        "no object": (b"[1, 2]", bad, 400),
        "not UTF-8": (b'{"model": "\xff\xfe"}', bad, 400),
        "model of a wrong type": (_chat(suite, model=5), bad, 400),
        "messages of a wrong type": (_chat(suite, messages="hello"), bad, 400),
        "max_tokens of a wrong type": (_chat(suite, max_tokens="many"), bad, 400),
        "stream of a wrong type": (_chat(suite, stream="yes"), bad, 400),
        "no messages": (no_messages, bad, 400),
        "unknown model": (_chat(suite, model="gpt-9"), missing, 404),
        "max_tokens over the context": (_chat(suite, max_tokens=1_000_000), bad, 400),
        "max_tokens below 0": (_chat(suite, max_tokens=-1), bad, 400),
        "two limits that disagree": (_chat(suite, max_completion_tokens=9), bad, 400),
        "NaN": (_chat(suite, temperature=float("nan")), bad, 400),
        "a number over all doubles": (_chat(suite).replace(b'"max_tokens": 4', b'"temperature": 1e999'), bad, 400),
        "a number out of range": (_chat(suite, temperature=-1e308), bad, 400),
        "deep JSON": (_chat(suite).replace(b'"x"', b"[" * 100_000 + b"]" * 100_000), bad, 400),
        "lone surrogates as a model": (_chat(suite, model="\ud800"), bad, 400),
        "stream_options without a stream": (_chat(suite, stream_options={"include_usage": True}), bad, 400),
        "too many choices": (_chat(suite, n=100_000), bad, 400),
    }


CASES = [
    "not JSON",
    "cut JSON",
    "empty",
    "no object",
    "not UTF-8",
    "model of a wrong type",
    "messages of a wrong type",
    "max_tokens of a wrong type",
    "stream of a wrong type",
    "no messages",
    "unknown model",
    "max_tokens over the context",
    "max_tokens below 0",
    "two limits that disagree",
    "NaN",
    "a number over all doubles",
    "a number out of range",
    "deep JSON",
    "lone surrogates as a model",
    "stream_options without a stream",
    "too many choices",
]


@pytest.mark.parametrize("case", CASES)
def test_bad_body_is_the_exception_that_the_client_knows_within_50_ms(suite: Suite, case: str) -> None:
    body, expected, status = _bodies(suite)[case]
    with client_sending(suite, body) as api, pytest.raises(expected) as caught:
        api.chat.completions.create(model="any", messages=[])
    assert caught.value.status_code == status
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code
    assert caught.value.message

    headers = {"Authorization": f"Bearer {suite.api_key}", "Content-Type": "application/json"}
    took_ms, statuses = median_ms(suite, "POST", CHAT, body, headers)
    assert statuses == {status}
    assert took_ms < WITHIN_MS


def test_lone_surrogates_in_a_prompt_break_nothing(suite: Suite) -> None:
    body = _chat(suite).replace(b'"x"', b'"\\ud800"')
    headers = {"Authorization": f"Bearer {suite.api_key}", "Content-Type": "application/json"}
    _, statuses = median_ms(suite, "POST", CHAT, body, headers)
    assert statuses == {400}


@pytest.mark.parametrize("key", ["", "x", WRONG_KEY, "sk-proj-abc", "clsk_live_" + "Z" * 32, "k" * 5000])
def test_bad_key_is_an_authentication_error_within_50_ms(suite: Suite, key: str) -> None:
    with client(suite, key=key or "placeholder") as api, pytest.raises(openai.AuthenticationError) as caught:
        api.chat.completions.create(model=suite.model_name, messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "invalid_api_key"
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    took_ms, statuses = median_ms(suite, "POST", CHAT, _chat(suite), headers)
    assert statuses == {401}
    assert took_ms < WITHIN_MS


def test_revoked_key_is_an_authentication_error_and_looks_like_one_that_never_was(suite: Suite) -> None:
    made = suite.admin.must("POST", f"/admin/environments/{suite.environment_id}/keys", {"name": "short-lived"})
    with client(suite, key=made["key"]) as api:
        assert list(api.models.list())
        suite.admin.must("DELETE", f"/admin/keys/{made['id']}")

        def refused() -> bool:
            return not suite.admin.key_works(made["key"])

        assert wait_until(refused, timeout_s=1.0, poll_s=0.01)
        with pytest.raises(openai.AuthenticationError) as revoked:
            api.chat.completions.create(model=suite.model_name, messages=[{"role": "user", "content": "x"}])
    with client(suite, key=WRONG_KEY) as api, pytest.raises(openai.AuthenticationError) as unknown:
        api.chat.completions.create(model=suite.model_name, messages=[{"role": "user", "content": "x"}])
    assert (revoked.value.message, revoked.value.code) == (unknown.value.message, unknown.value.code)


def test_wrong_content_type_is_refused(suite: Suite) -> None:
    sending = client_sending(suite, _chat(suite), {"Content-Type": "text/plain"})
    with sending as api, pytest.raises(openai.APIStatusError) as caught:
        api.chat.completions.create(model="any", messages=[])
    assert caught.value.status_code == 415
    headers = {"Authorization": f"Bearer {suite.api_key}", "Content-Type": "text/plain"}
    took_ms, statuses = median_ms(suite, "POST", CHAT, _chat(suite), headers)
    assert (took_ms < WITHIN_MS, statuses) == (True, {415})


@pytest.mark.parametrize("chunked", [False, True])
def test_11_mb_get_a_413_and_not_a_broken_pipe(suite: Suite, chunked: bool) -> None:
    body = _chat(suite).replace(b'"x"', b'"' + b"x" * ELEVEN_MB + b'"')
    headers = {"Authorization": f"Bearer {suite.api_key}", "Content-Type": "application/json"}
    parts = (body[start : start + 65536] for start in range(0, len(body), 65536))
    with httpx.Client(trust_env=False, timeout=20) as http:
        answer = http.post(f"{suite.base_url}{CHAT}", headers=headers, content=parts if chunked else body)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def test_11_mb_through_the_official_client(suite: Suite) -> None:
    with client(suite) as api, pytest.raises(openai.APIStatusError) as caught:
        api.chat.completions.create(model=suite.model_name, messages=[{"role": "user", "content": "x" * ELEVEN_MB}])
    assert caught.value.status_code == 413


def test_refusal_of_11_mb_comes_before_they_are_read(suite: Suite) -> None:
    began = time.perf_counter()
    answer = send_raw(suite, [_head(suite, f"Content-Length: {ELEVEN_MB}\r\n")], quiet_s=0.01)
    assert answer.statuses == [413]
    assert (time.perf_counter() - began) * 1000 < WITHIN_MS + 10.0


def _head(suite: Suite, more: str) -> bytes:
    return (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {suite.api_key}\r\n"
        f"Content-Type: application/json\r\n{more}\r\n"
    ).encode()


def test_slow_loris_is_told_408_and_cut_off(suite: Suite) -> None:
    def slowly() -> Iterator[bytes]:
        yield f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n".encode()
        until = time.monotonic() + HEAD_TIMEOUT_S + 2.5
        while time.monotonic() < until:
            time.sleep(0.2)
            yield b"X-Slow: 1\r\n"

    answer = send_raw(suite, slowly())
    assert answer.statuses == [408]
    assert answer.body["error"]["code"] == "request_timeout"


def _only_refused(answer: RawAnswer) -> None:
    assert answer.statuses, "no answer at all"
    assert all(400 <= status < 500 for status in answer.statuses), answer.statuses
    assert answer.body["error"]["message"]


def test_smuggled_second_request_is_not_served(suite: Suite) -> None:
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n" % suite.api_key.encode()
    inner = b"0\r\n\r\n" + smuggled
    head = _head(suite, f"Content-Length: {len(inner)}\r\nTransfer-Encoding: chunked\r\n")
    answer = send_raw(suite, [head + inner])
    _only_refused(answer)
    assert len(answer.statuses) == 1
    twice = send_raw(suite, [_head(suite, f"Content-Length: 5\r\nContent-Length: {len(inner)}\r\n") + inner])
    _only_refused(twice)
    assert len(twice.statuses) == 1


def test_100_000_headers_are_refused(suite: Suite) -> None:
    lines = b"".join(b"X-H%d: 1\r\n" % number for number in range(100_000))
    head = _head(suite, "")[:-2]
    _only_refused(send_raw(suite, [head, lines, b"\r\n"]))


def test_bare_line_feeds_are_refused(suite: Suite) -> None:
    body = _chat(suite)
    _only_refused(send_raw(suite, [_head(suite, f"Content-Length: {len(body)}\r\n").replace(b"\r\n", b"\n") + body]))


def test_garbage_is_refused(suite: Suite) -> None:
    _only_refused(send_raw(suite, [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50 + b"\r\n\r\n"]))


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def test_gzip_bomb_is_refused_and_never_unpacked_whole(suite: Suite) -> None:
    pid = suite.pid("gateway")
    assert pid is not None
    bomb = gzip.compress(b" " * (512 * 1024 * 1024), compresslevel=1)
    before = _peak_bytes(pid)
    headers = {
        "Authorization": f"Bearer {suite.api_key}",
        "Content-Type": "application/json",
        "Content-Encoding": "gzip",
    }
    with httpx.Client(trust_env=False, timeout=20) as http:
        answer = http.post(f"{suite.base_url}{CHAT}", headers=headers, content=bomb)
    assert 400 <= answer.status_code < 500
    assert _peak_bytes(pid) - before < 150 * 1024 * 1024


def test_none_of_it_is_in_the_ledger_or_kept_the_engine_busy(suite: Suite, ledger: Ledger) -> None:
    """The last of this file: everything above was refused."""
    assert wait_until(lambda: ledger.waiting_witnesses() == 0, timeout_s=20.0)
    assert ledger.entries() == {}
    assert Sims(suite).running() == 0
