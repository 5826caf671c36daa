"""One simulated sequence: its ends, its held-back text, its count."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_sim_engine import vocabulary
from crosslogic_sim_engine.choice import Choice
from crosslogic_sim_engine.parsing import GenerationRequest, parse_generation

PLAIN = parse_generation(
    "completions", {"prompt": "once upon a time", "max_tokens": 30}, served="m", context_tokens=4096
)


def choice(request: GenerationRequest = PLAIN, *, prompt: list[int] | None = None, end_one_in: int = 0) -> Choice:
    return Choice(request, index=0, prompt_ids=prompt or request.prompts[0], seed=0, end_one_in=end_one_in)


def finished(made: Choice) -> tuple[str, list[int]]:
    while made.finish_reason is None:
        made.advance()
    return made.take()


def test_the_fast_way_to_the_end_says_the_same_as_token_by_token() -> None:
    fast = choice()
    fast.run_to_end()
    slow = choice()
    text, ids = finished(slow)
    assert fast.take() == (text, ids)
    assert (fast.generated, fast.finish_reason) == (slow.generated, slow.finish_reason) == (30, "length")
    assert vocabulary.decode(ids) == text


@given(st.integers(min_value=1, max_value=29))
def test_a_text_resumed_anywhere_is_the_same_text(done: int) -> None:
    text, ids = finished(choice())
    rest = msgspec.structs.replace(PLAIN, max_tokens=30 - done)
    resumed_text, resumed = finished(choice(rest, prompt=PLAIN.prompts[0] + ids[:done]))
    assert resumed == ids[done:]
    assert vocabulary.decode(ids[:done]) + resumed_text == text


@given(st.integers(min_value=0, max_value=100), st.integers(min_value=1, max_value=12))
def test_a_stop_string_is_never_shown_not_even_in_part(begin: int, length: int) -> None:
    text, ids = finished(choice())
    stop = text[begin : begin + length]
    made = choice(msgspec.structs.replace(PLAIN, stops=(stop,)))
    shown = ""
    while made.finish_reason is None:
        made.advance()
        shown += made.take()[0]
        assert text[: text.index(stop)].startswith(shown)
    assert shown == text[: text.index(stop)]
    assert (made.finish_reason, made.stop_reason) == ("stop", stop)
    assert len(vocabulary.decode(ids[: made.generated])) >= text.index(stop) + len(stop)


def test_text_held_back_for_a_stop_string_that_never_comes_is_shown_at_the_end() -> None:
    text, _ = finished(choice())
    assert finished(choice(msgspec.structs.replace(PLAIN, stops=("never said",))))[0] == text


def test_min_tokens_puts_off_ends_and_ignore_eos_ignores_them() -> None:
    early = choice(end_one_in=2)
    finished(early)
    assert early.finish_reason == "stop"
    assert early.generated < 15
    late = choice(msgspec.structs.replace(PLAIN, min_tokens=20), end_one_in=2)
    finished(late)
    assert late.generated > 20
    never = choice(msgspec.structs.replace(PLAIN, ignore_end=True), end_one_in=2)
    _, ids = finished(never)
    assert (never.generated, never.finish_reason) == (30, "length")
    assert vocabulary.EOS in ids
