"""What an organisation would lose by a wrong guess at its prompts: room that it has, or a limit that others rely on."""

import json
from pathlib import Path

import pytest

from crosslogic_gateway.admission.estimate import EPOCH, MAX_CLASSES, TokenEstimates

CORPUS = json.loads(Path(__file__).with_name("token_corpus.json").read_text(encoding="utf-8"))
TOKENIZERS = ("o200k", "cl100k", "llama2", "llama3", "mistral")
TEMPLATE_TOKENS = 10


def body_of(text: str, *, escaped: bool) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return json.dumps(body, ensure_ascii=escaped, separators=(",", ":")).encode()


@pytest.mark.parametrize("escaped", [False, True])
def test_no_text_of_the_corpus_is_under_counted_by_more_than_a_tenth_by_any_tokenizer(escaped: bool) -> None:
    estimates = TokenEstimates()
    short = [
        (entry["name"], tokenizer)
        for entry in CORPUS
        for tokenizer in TOKENIZERS
        if estimates.estimate("m", body_of(entry["text"], escaped=escaped), context_length=10**6).tokens
        < 0.9 * (entry["tokens"][tokenizer] + TEMPLATE_TOKENS)
    ]
    assert short == []


@pytest.mark.parametrize("copies", [1, 40])
def test_long_prompts_are_not_under_counted_either(copies: int) -> None:
    estimates = TokenEstimates()
    for entry in CORPUS:
        found = estimates.estimate("m", body_of(entry["text"] * copies, escaped=False), context_length=10**6).tokens
        assert found >= 0.9 * max(entry["tokens"].values()) * copies, entry["name"]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_model_that_was_learned_is_still_not_under_counted_and_reserves_less(tokenizer: str) -> None:
    estimates = TokenEstimates()
    prompts = [
        (body_of(entry["text"], escaped=False), entry["tokens"][tokenizer] + TEMPLATE_TOKENS) for entry in CORPUS
    ]
    before = sum(estimates.estimate("m", body, context_length=10**6).tokens for body, _ in prompts)
    for _ in range(EPOCH + 1):
        for body, tokens in prompts:
            estimates.learn(estimates.estimate("m", body, context_length=10**6), tokens)
    learned = [(estimates.estimate("m", body, context_length=10**6).tokens, tokens) for body, tokens in prompts]
    assert all(found >= 0.9 * tokens for found, tokens in learned)
    assert sum(found for found, _ in learned) < before
    elsewhere = sum(estimates.estimate("other", body, context_length=10**6).tokens for body, _ in prompts)
    assert elsewhere == before, "what one model's tokenizer does says nothing of another's"


def test_a_model_that_counts_more_than_was_thought_is_believed_at_once() -> None:
    estimates = TokenEstimates()
    body = body_of("a plain sentence about nothing in particular", escaped=False)
    first = estimates.estimate("m", body, context_length=10**6)
    estimates.learn(first, first.tokens * 2)
    assert estimates.estimate("m", body, context_length=10**6).tokens >= first.tokens * 2


def test_no_prompt_is_thought_longer_than_the_models_context() -> None:
    estimates = TokenEstimates()
    assert estimates.estimate("m", b"x" * 10_000_000, context_length=4096).tokens == 4096
    assert estimates.estimate("m", b'"' + b"9" * 5_000 + b'"', context_length=4096, inputs=1).tokens == 4096
    assert estimates.estimate("m", b'"' + b"9" * 5_000 + b'"', context_length=4096, inputs=3).tokens > 4096


def test_prompts_that_are_no_text_are_counted_too() -> None:
    estimates = TokenEstimates()
    lone = rb'{"model":"m","prompt":"\ud800\ud800\ud800"}'
    assert estimates.estimate("m", lone, context_length=4096).tokens >= 9
    ids = json.dumps({"model": "m", "prompt": list(range(1000))}).encode()
    assert estimates.estimate("m", ids, context_length=100_000).tokens >= 1000


def test_what_was_learned_fills_no_memory() -> None:
    estimates = TokenEstimates()
    for number in range(MAX_CLASSES + 100):
        estimates.learn(estimates.estimate(f"model-{number}", b"{}", context_length=4096), 5)
    assert len(estimates._corrections) == MAX_CLASSES
