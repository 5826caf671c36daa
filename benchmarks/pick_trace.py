"""Requests whose arrivals and lengths have the shape of public LLM traces: figures only, no data of theirs.

The figures are those that publications on production traces of conversations agree on: arrivals burstier than Poisson,
prompts about ten times as long as answers, both with long tails, a few applications that send most of the requests
and repeat their instructions each time, and conversations whose next turn repeats all turns before.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from crosslogic_common.prefix_blocks import BLOCK_ENDS, BYTES_A_TOKEN


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A trace's figures. Lengths are tokens; `sigma` is that of the lengths' logarithm."""

    burstiness: float = 2.0
    """Standard deviation of the times between arrivals over their mean; Poisson's is 1. Gamma distributed."""
    turn_median: float = 150.0
    turn_sigma: float = 1.3
    answer_median: float = 130.0
    answer_sigma: float = 1.1
    longest_answer: int = 2_000
    longest_prompt: int = 32_000
    applications: int = 40
    application_skew: float = 1.1
    """Zipf's exponent of how often applications are used."""
    instructions_median: float = 700.0
    instructions_sigma: float = 0.9
    turns: float = 3.5
    """Of a conversation, on average; geometric."""
    open_conversations: int = 2_000
    """At a time: the next turn comes from any of the latest so many."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request."""

    at_s: float
    prompt_tokens: int
    answer_tokens: int
    application: int
    instructions_tokens: int
    """Of the prompt, those that the application sends each time."""
    conversation: int
    prefix_hashes: tuple[int, ...]


@dataclass(slots=True)
class _Conversation:
    number: int
    application: int
    tokens: int


def trace(shape: Shape, *, per_s: float, requests: int, seed: int) -> Iterator[Arrival]:
    """`requests` arrivals, `per_s` a second on average."""
    draw = random.Random(seed)
    weights = [1.0 / rank**shape.application_skew for rank in range(1, shape.applications + 1)]
    instructions = [
        _length(draw, shape.instructions_median, shape.instructions_sigma, shape.longest_prompt // 4)
        for _ in range(shape.applications)
    ]
    gamma_shape = 1.0 / shape.burstiness**2
    open_ones: list[_Conversation] = []
    at_s = 0.0
    for number in range(requests):
        at_s += draw.gammavariate(gamma_shape, 1.0 / (per_s * gamma_shape))
        if open_ones and draw.random() > 1.0 / shape.turns:
            conversation = draw.choice(open_ones)
        else:
            application = draw.choices(range(shape.applications), weights)[0]
            conversation = _Conversation(number, application, instructions[application])
            open_ones.append(conversation)
            if len(open_ones) > shape.open_conversations:
                open_ones.pop(0)
        turn = _length(draw, shape.turn_median, shape.turn_sigma, shape.longest_prompt)
        answer = _length(draw, shape.answer_median, shape.answer_sigma, shape.longest_answer)
        prompt = min(conversation.tokens + turn, shape.longest_prompt)
        shared = instructions[conversation.application]
        yield Arrival(
            at_s, prompt, answer, conversation.application, shared, conversation.number,
            tuple(_hashes(conversation, shared, prompt)),
        )  # fmt: skip
        conversation.tokens = prompt + answer
        if conversation.tokens >= shape.longest_prompt:
            open_ones.remove(conversation)


def _hashes(conversation: _Conversation, shared: int, prompt: int) -> Iterator[int]:
    """As a gateway would make them: a beginning is the application's, then the conversation's own."""
    for end in BLOCK_ENDS:
        if end > prompt * BYTES_A_TOKEN:
            return
        whose = (1, conversation.application) if end <= shared * BYTES_A_TOKEN else (2, conversation.number)
        # A tuple of numbers has the same hash in every process.
        yield hash((*whose, end)) & (2**64 - 1)


def _length(draw: random.Random, median: float, sigma: float, longest: int) -> int:
    return max(1, min(round(median * draw.lognormvariate(0.0, sigma)), longest))
