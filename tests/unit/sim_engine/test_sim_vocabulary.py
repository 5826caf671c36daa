"""The simulated engine's tokens: what resuming, counting and comparing rest on."""

from hypothesis import given
from hypothesis import strategies as st

from crosslogic_sim_engine import vocabulary
from crosslogic_sim_engine.vocabulary import decode, encode, is_known, state_after, state_of, word_at

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
IDS = st.lists(st.integers(min_value=0, max_value=vocabulary.LAST_ID), max_size=50)


@given(TEXTS)
def test_a_prompt_is_not_altered_by_the_tokenizer(text: str) -> None:
    ids = encode(text)
    assert decode(ids) == text
    assert all(is_known(token) for token in ids)


@given(st.lists(st.sampled_from(["\x00", "a", "é", "𝄞"])).map("".join))
def test_texts_with_zero_bytes_are_not_taken_for_words(text: str) -> None:
    assert decode(encode(text)) == text


@given(IDS, IDS, st.integers(min_value=0, max_value=2**31))
def test_a_resumed_stream_is_in_the_state_of_one_never_stopped(
    prompt: list[int], generated: list[int], seed: int
) -> None:
    state = state_of(prompt, seed=seed)
    for token in generated:
        state = state_after(state, token)
    assert state == state_of(prompt + generated, seed=seed)


@given(IDS, st.integers(min_value=0, max_value=vocabulary.LAST_ID), st.integers(min_value=0, max_value=49))
def test_a_resume_that_lost_an_id_is_seen_in_what_follows(ids: list[int], token: int, place: int) -> None:
    longer = [*ids[:place], token, *ids[place:]]
    assert state_of(longer, seed=0) != state_of(ids, seed=0)


def test_the_words_are_printable_distinct_and_all_used() -> None:
    assert len(set(vocabulary.WORD_TEXTS)) == vocabulary.WORDS == 1024
    assert all(text.isascii() and text[0] == " " and text[1:].isalpha() for text in vocabulary.WORD_TEXTS)
    state = state_of([1], seed=3)
    seen = set()
    for _ in range(20_000):
        word = word_at(state)
        seen.add(word)
        state = state_after(state, vocabulary.FIRST_WORD + word)
    assert len(seen) == vocabulary.WORDS


def test_engines_of_other_seeds_say_other_things() -> None:
    assert word_at(state_of([5], seed=0)) != word_at(state_of([5], seed=1))
