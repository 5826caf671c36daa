"""Streams of the simulated engine and of real vLLM, cut, and continued by the agent's own parts: the same text."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from tests.contract.engine_fixtures import Caller
from tests.fakes.engine_server import RunningEngine
from tests.fakes.node_agent_resume import KeptStream, relay

CHAT, COMPLETIONS = pb.ENGINE_API_CHAT_COMPLETIONS, pb.ENGINE_API_COMPLETIONS
TOKENS = 40
CUTS = (1, 2, 3, 6, 11, 19, 28, 38)
BODY: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}


@pytest.fixture(params=["simulated", "real_vllm"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    engine: RunningEngine = request.getfixturevalue(request.param)
    made = Caller(engine)
    yield made
    made.http.close()


def _stream(caller: Caller, path: str, body: dict[str, Any]) -> Iterator[bytes]:
    """The chunks of one answer, each by itself."""
    with caller.http.stream("POST", path, content=msgspec.json.encode(body), headers=JSON) as answer:
        assert answer.status_code == 200, answer.read()
        whole = answer.read()
    return iter([event + b"\n\n" for event in whole.split(b"\n\n") if event])


JSON = {"Content-Type": "application/json"}


def _relay(caller: Caller, api: int, body: dict[str, Any], kept: KeptStream, **more: Any) -> bool:
    model = caller.engine.model
    return relay(lambda path, asked: _stream(caller, path, asked), api, body, kept, engine_model=model, **more)


@pytest.mark.parametrize(
    ("api", "more"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "the big river"}]}),
        (CHAT, {"messages": [{"role": "user", "content": "naïve 漢字 \U0001f600"}], "stop": ["never ever said", "q"]}),
        (COMPLETIONS, {"prompt": "once upon a time"}),
        (COMPLETIONS, {"prompt": "é" * 20, "stop": "not this one either"}),
    ],
)
def test_a_stream_cut_and_continued_is_the_undisturbed_one(caller: Caller, api: int, more: dict[str, Any]) -> None:
    body = BODY | more
    undisturbed = KeptStream()
    assert _relay(caller, api, body, undisturbed)
    for cut in CUTS:
        kept = KeptStream()
        if _relay(caller, api, body, kept, chunks=cut):
            continue  # a stop string ended it before
        assert kept.opening
        assert _relay(caller, api, body, kept, resumed=True)
        assert kept.text == undisturbed.text, f"cut after {cut} chunks"
        assert kept.completion_tokens == undisturbed.completion_tokens
        assert len({each["id"] for each in kept.events}) == 1


def test_a_stop_string_across_the_cut_ends_the_stream_where_it_would_have(caller: Caller) -> None:
    plain = KeptStream()
    body = BODY | {"prompt": "once upon a time"}
    assert _relay(caller, COMPLETIONS, body, plain)
    # A piece of the answer's own text, over the borders of several tokens.
    middle = len(plain.text) // 2
    body |= {"stop": [plain.text[middle : middle + 9]]}
    undisturbed = KeptStream()
    assert _relay(caller, COMPLETIONS, body, undisturbed)
    assert undisturbed.text != plain.text
    for cut in range(1, undisturbed.completion_tokens):
        kept = KeptStream()
        if not _relay(caller, COMPLETIONS, body, kept, chunks=cut) and kept.opening:
            assert _relay(caller, COMPLETIONS, body, kept, resumed=True)
            assert kept.text == undisturbed.text, f"cut after {cut} chunks"
            assert kept.events[-2]["choices"][0]["finish_reason"] == "stop"
