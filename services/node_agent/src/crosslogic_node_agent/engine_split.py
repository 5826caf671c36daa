"""Over how many of its accelerators a machine's engine splits a model, and how often it runs beside itself. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from crosslogic_model_store.facts import ModelFacts
from crosslogic_model_store.fit import Accelerators, Demand, fit, has_geometry, usual_concurrency

TENSOR_PARALLEL_WORD: Final = "{tensor_parallel}"
DATA_PARALLEL_WORD: Final = "{data_parallel}"
_MAX_DIGITS: Final = 9


@dataclass(frozen=True, slots=True)
class Split:
    """What the engine is told."""

    tensor_parallel: int = 1
    """Accelerators that hold one copy of the model."""
    data_parallel: int = 1
    """Copies, so that no accelerator that is paid for is idle."""
    why: str = "there is no accelerator"


def split_of(facts: ModelFacts, gpus: Accelerators | None, command: Sequence[str]) -> Split:
    """The fewest accelerators on which the model fits with what `command` says of context and requests at once.

    What does not fit by this reckoning is spread as widely as its heads allow: the engine's own has the last word.
    """
    if gpus is None:
        return Split()
    if not has_geometry(facts):
        return Split(gpus.count, 1, "the model's files do not tell its heads")
    context = number_after(command, "--max-model-len") or facts.context_length
    if not context:
        return Split(gpus.count, 1, "the model's files do not tell its context")
    context = min(context, facts.context_length or context)
    # As the registry reckons before a machine is launched; an engine that is told of fewer needs less.
    usual = usual_concurrency(context)
    at_once = min(number_after(command, "--max-num-seqs") or usual, usual)
    demand = Demand(context_tokens=context, concurrency=at_once)
    found = fit(facts, gpus, demand)
    size = found.share.tensor_parallel
    return Split(size, gpus.count // size, "; ".join(found.arithmetic))


def number_after(command: Sequence[str], option: str) -> int:
    """What a command that starts an engine says of an option that takes a whole number; 0 when it says nothing."""
    said = "0"
    for word, following in zip(command, [*command[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name == option:
            said = value if equals else following
    return int(said) if said.isascii() and said.isdecimal() and len(said) <= _MAX_DIGITS else 0
