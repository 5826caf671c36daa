"""What an endpoint of somebody else's may say, and where it may be."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.settings import Secret
from crosslogic_node_agent.domain import CountSource, TokenCount
from crosslogic_node_agent.events import EventError
from crosslogic_node_agent.external.answers import ExternalReader
from crosslogic_node_agent.external.credential import Credential, sound_key
from crosslogic_node_agent.external.refusals import read_refusal
from crosslogic_node_agent.external.request import external_request
from crosslogic_node_agent.external.terms import EndpointUrl, ExternalTerms
from tests.fakes.node_agent_bench import relay_open

KEY = "sk-secret-0123456789"
TERMS = ExternalTerms(url=EndpointUrl.parse("https://api.example.com/v1"), model="theirs", key=Credential(Secret(KEY)))
# A machine that stalls for a moment says nothing of what is read.
UNHURRIED = settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NAMES = st.sampled_from(
    (
        *("choices", "usage", "error", "delta", "finish_reason", "index", "data", "prompt_tokens", "completion_tokens"),
        *("prompt_tokens_details", "cached_tokens", "message", "code", "param", "id", "model", "x"),
    )
)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4))
SAID = '[{"index":0,"delta":{"content":"a"}}]'
OBJECTS = st.dictionaries(NAMES, ANYTHING, max_size=6)


def reader(*, stream: bool) -> ExternalReader:
    opened = relay_open({"messages": []}, api=pb.ENGINE_API_CHAT_COMPLETIONS, stream=stream)
    made = ExternalReader(external_request(opened, terms=TERMS), TERMS, include_usage=True)
    made.on_head(200, "text/event-stream" if stream else "application/json")
    return made


def streamed(raw: bytes) -> tuple[bytes, TokenCount]:
    made = reader(stream=True)
    out = b"".join(piece.data for piece in made.feed(raw))
    made.finish()
    return out, made.count()


@UNHURRIED
@given(said=st.lists(OBJECTS, max_size=4), ended=st.booleans())
def test_whatever_a_stream_says_is_read_or_refused(said: list[dict[str, Any]], ended: bool) -> None:
    raw = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in said) + b"data: [DONE]\n\n" * ended
    with contextlib.suppress(EventError):
        out, count = streamed(raw)
        assert ended
        assert out.endswith(b"data: [DONE]\n\n")
        assert min(count.prompt_tokens, count.completion_tokens, count.cached_prompt_tokens) >= 0


@UNHURRIED
@given(said=OBJECTS)
def test_whatever_a_whole_answer_says_is_read_or_refused(said: dict[str, Any]) -> None:
    made = reader(stream=False)
    made.feed(json.dumps(said).encode())
    with contextlib.suppress(EventError):
        shown = msgspec.json.decode(b"".join(piece.data for piece in made.finish()))
        assert shown["model"] != "theirs"
        assert "error" not in shown


@UNHURRIED
@given(raw=st.binary(max_size=200))
def test_bytes_that_are_no_answer_are_refused(raw: bytes) -> None:
    for stream in (True, False):
        made = reader(stream=stream)
        with contextlib.suppress(EventError):
            made.feed(raw)
            made.finish()


@given(
    status=st.integers(300, 599), said=OBJECTS | st.dictionaries(st.just("error"), OBJECTS | SCALARS), key=st.booleans()
)
def test_whatever_a_refusal_says_it_tells_no_key(status: int, said: dict[str, Any], key: bool) -> None:
    raw = json.dumps(said | ({"message": f"with {KEY}", "error": f"of {KEY}"} if key else {})).encode()
    found = read_refusal(status, raw, terms=TERMS, model="ours")
    assert KEY not in found.body.decode() + str(found.error)
    assert found.status in (0, 400, 403, 404, 413, 422)
    assert (found.status == 0) == (found.body == b"")


@pytest.mark.parametrize(
    "raw",
    [
        f'data:{{"choices":{SAID}}}\n\ndata:[DONE]\n\n',
        f': hello\r\n\r\ndata: {{"choices":{SAID}}}\r\n\r\ndata: [DONE]\r\n\r\n',
        f'event: message\nid: 1\ndata: {{"choices":\ndata: {SAID}}}\n\nretry: 9\n\ndata: [DONE]\n\n',
        f'data: {{"choices":[]}}\n\ndata: {{"choices":{SAID}}}\n\ndata: [DONE]\n\ndata: {{"choices":{SAID}}}\n\n',
    ],
)
def test_streams_are_read_as_the_standard_has_them(raw: str) -> None:
    out, count = streamed(raw.encode())
    first, last, nothing = out.split(b"\n\n")
    assert msgspec.json.decode(first.removeprefix(b"data: "))["choices"][0]["delta"]["content"] == "a"
    assert (last, nothing, count.source) == (b"data: [DONE]", b"", CountSource.NONE)


@pytest.mark.parametrize(
    "usage",
    [
        *({"prompt_tokens": wrong, "completion_tokens": 1} for wrong in (-1, 2**31, 1.5, True, "3", None)),
        *({"prompt_tokens": 1, "completion_tokens": wrong} for wrong in (-1, 2**31, 1.5, True, "3")),
        *([], "many", {}),
    ],
)
def test_usage_that_cannot_be_true_is_none(usage: object) -> None:
    for stream in (True, False):
        made = reader(stream=stream)
        body = json.dumps({"choices": [{"index": 0}], "usage": usage})
        made.feed(f"data: {body}\n\ndata: [DONE]\n\n".encode() if stream else body.encode())
        made.finish()
        assert made.count() == TokenCount()


@pytest.mark.parametrize(
    ("text", "url", "authority"),
    [
        ("https://api.example.com/v1", EndpointUrl(True, "api.example.com", 443, "/v1"), "api.example.com"),
        (
            "https://API.example.com:8443/a/b/",
            EndpointUrl(True, "api.example.com", 8443, "/a/b"),
            "api.example.com:8443",
        ),
        ("http://10.0.0.1", EndpointUrl(False, "10.0.0.1", 80, ""), "10.0.0.1"),
        ("https://[fd00::1]:9/v1", EndpointUrl(True, "fd00::1", 9, "/v1"), "[fd00::1]:9"),
    ],
)
def test_endpoints_address_is_read_as_clients_write_it(text: str, url: EndpointUrl, authority: str) -> None:
    assert EndpointUrl.parse(text) == url
    assert url.authority == authority


@pytest.mark.parametrize(
    "text",
    [
        *("", "api.example.com", "ftp://a/v1", "https://", "https:///v1", "https://a:0/v1", "https://a:99999/v1"),
        *(
            "https://user@a/v1",
            "https://u:secret@a/v1",
            "https://a/v1?key=secret",
            "https://a/v1#secret",
            "https://a b/v1",
        ),
        *(
            "https://a/v1 HTTP/1.1\r\nX: y",
            "https://a\r\n/v1",
            "https://a/%0d%0aX",
            "https://ä.example/v1",
            "https://[fe80::1%e]/",
        ),
    ],
)
def test_address_that_is_none_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="must be https://host/path") as refused:
        EndpointUrl.parse(text)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("key", "sound"), [("", True), ("sk-1", True), ("a b", False), ("a\nb", False), ("ä", False)])
def test_key_that_would_break_out_of_its_header_is_refused(key: str, sound: bool) -> None:
    assert sound_key(Secret(key)) is sound
