"""What of the engine's events reaches a client, and what of them is counted."""

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_node_agent.domain import CountSource, TokenCount
from crosslogic_node_agent.engine_request import EngineRequest
from crosslogic_node_agent.events import CompletionEvents, EventError, Piece, TypedEvents


def request(*, prompts: int = 1, choices: int = 1, rename: bool = False) -> EngineRequest:
    return EngineRequest("/v1/completions", b"", "id", True, prompts, choices, "catalogue", rename)


def reader(*, usage: bool = False, running: bool = False, ids: bool = False, **shape: Any) -> CompletionEvents:
    return CompletionEvents(request(**shape), include_usage=usage, continuous_usage=running, return_token_ids=ids)


def usage(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion, **more}


def chunk(text: str, count: int, *, index: int = 0, prompt: int = 3, **choice: Any) -> dict[str, Any]:
    return {
        "id": "c",
        "model": "engine",
        "choices": [{"index": index, "text": text, "token_ids": [count], **choice}],
        "usage": usage(prompt, count),
    }


def stream(*events: dict[str, Any] | str, line_end: str = "\n") -> bytes:
    parts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {part}{line_end}{line_end}" for part in parts).encode()


def fed(events: CompletionEvents | TypedEvents, raw: bytes, cuts: list[int]) -> list[Piece]:
    pieces: list[Piece] = []
    edges = [0, *sorted({cut % (len(raw) + 1) for cut in cuts}), len(raw)]
    for start, end in pairwise(edges):
        pieces += events.feed(raw[start:end])
    return pieces


WHOLE = (chunk("a", 1, prompt_token_ids=[7, 8]), chunk("é", 2), {"choices": [], "usage": usage(3, 2)}, "[DONE]")


@given(cuts=st.lists(st.integers(0, 2000), max_size=15), line_end=st.sampled_from(["\n", "\r\n"]))
def test_a_stream_reads_the_same_however_the_network_cuts_it(cuts: list[int], line_end: str) -> None:
    events = reader()
    pieces = fed(events, stream(*WHOLE, line_end=line_end), cuts)
    assert [piece.token_ids for piece in pieces] == [(1,), (2,), ()]
    assert [piece.completion_tokens for piece in pieces] == [1, 2, 2]
    assert events.prompt_token_ids == (7, 8)
    assert events.finished
    assert events.count() == TokenCount(3, 0, 2, CountSource.FINAL)
    assert all(piece.data.endswith(b"\n\n") for piece in pieces)


@given(raw=st.binary(max_size=300), cuts=st.lists(st.integers(0, 400), max_size=5))
def test_garbage_is_an_engine_failure_and_nothing_else(raw: bytes, cuts: list[int]) -> None:
    for events in (reader(), TypedEvents(request())):
        try:
            fed(events, raw, cuts)
        except EventError:
            continue


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5) | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_json_of_any_shape_is_read_or_refused(value: Any) -> None:
    try:
        reader(ids=True).feed(b"data: " + msgspec.json.encode(value) + b"\n\n")
    except EventError:
        return


def test_running_counts_of_several_choices_add_up_and_each_prompt_counts_once() -> None:
    events = reader(prompts=2, choices=2)
    for index, count, prompt in ((0, 1, 3), (1, 1, 3), (2, 4, 5), (0, 2, 3), (3, 1, 5)):
        events.feed(stream(chunk("x", count, index=index, prompt=prompt)))
    assert events.count() == TokenCount(8, 0, 2 + 1 + 4 + 1, CountSource.RUNNING)


def test_a_chunk_of_several_tokens_counts_them_all() -> None:
    events = reader()
    (piece,) = events.feed(stream(chunk("ab", 2, token_ids=[11, 12])))
    assert piece.token_ids == (11, 12)
    assert piece.completion_tokens == 2


def test_text_that_lags_behind_its_ids_still_counts() -> None:
    events = reader()
    (piece,) = events.feed(stream(chunk("", 1)))
    assert piece.completion_tokens == 1
    assert events.count().completion_tokens == 1


def test_cached_prompt_tokens_are_read_where_the_engine_tells_them() -> None:
    events = reader()
    events.feed(stream({"choices": [], "usage": usage(9, 2, prompt_tokens_details={"cached_tokens": 8})}))
    assert events.count().cached_prompt_tokens == 8


def test_answers_carry_the_catalogues_name() -> None:
    (piece,) = reader(rename=True).feed(stream(chunk("x", 1)))
    assert b'"model":"catalogue"' in piece.data


@pytest.mark.parametrize(
    "events",
    [
        ('{"error": {"message": "EngineCore died", "code": 500}}', "[DONE]"),
        (chunk("x", 1, finish_reason="abort"),),
        ({"choices": "many"},),
        ({"choices": [{"index": "a"}], "usage": usage(1, 1)},),
        ("[]",),
        ("{",),
    ],
)
def test_an_engine_that_fails_in_mid_stream_is_found_out(events: tuple[Any, ...]) -> None:
    with pytest.raises(EventError):
        reader().feed(stream(*events))


def test_an_end_mark_without_the_final_usage_is_no_end() -> None:
    events = reader()
    events.feed(stream(chunk("x", 1), "[DONE]"))
    assert not events.finished


def test_comments_and_keepalives_are_not_the_clients() -> None:
    assert reader().feed(b": ping\n\n") == []


def typed(kind: str, **body: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **body})}\n\n".encode()


def test_responses_are_counted_by_their_last_event_and_keep_their_bytes() -> None:
    events = TypedEvents(request())
    delta = typed("response.output_text.delta", delta="hi")
    assert [piece.data for piece in events.feed(delta)] == [delta]
    assert events.count().source is CountSource.NONE
    events.feed(typed("response.completed", response={"usage": {"input_tokens": 4, "output_tokens": 6}}))
    assert events.finished
    assert events.count() == TokenCount(4, 0, 6, CountSource.FINAL)


def test_a_failed_response_is_no_success() -> None:
    with pytest.raises(EventError):
        TypedEvents(request()).feed(typed("response.failed", response={}))
    with pytest.raises(EventError):
        TypedEvents(request()).feed(typed("error", error={"message": "10.0.0.1"}))
