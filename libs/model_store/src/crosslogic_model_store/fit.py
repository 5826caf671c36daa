"""Whether a model fits on an accelerator, with the arithmetic. Pure.

Per accelerator, with tensor parallelism over t of them: the weights' share, the keys and values of every token that may
be held at once, and what the engine itself takes. It is an estimate from published numbers, on the safe side; the
engine's own measurement at its start has the last word.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from crosslogic_model_store.facts import ModelFacts

GIB: Final = 2**30
BLOCK_TOKENS: Final = 16
"""vLLM's blocks of keys and values."""
BATCHED_TOKENS: Final = 8192
"""Tokens that an engine reads at once, at most."""
RUNTIME_BYTES: Final = 3 * GIB // 2
"""The driver's context, kernels and captured graphs, on each accelerator."""
LEAST_CONTEXT_TOKENS: Final = 4096
USUAL_TOKENS: Final = 65_536
_CACHE_NUMBER_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class Accelerators:
    """Those of one machine."""

    name: str
    memory_bytes: int
    """Of each, as a program sees it."""
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked of the engine."""

    context_tokens: int
    """Prompt and answer of one request."""
    concurrency: int
    """Requests of that length at once."""
    utilisation: float = 0.90
    """Share of an accelerator's memory that the engine may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one of `tensor_parallel` accelerators must hold, in bytes."""

    tensor_parallel: int
    weights_bytes: int
    cache_bytes: int
    engine_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.cache_bytes + self.engine_bytes


@dataclass(frozen=True, slots=True)
class Fit:
    """The answer."""

    fits: bool
    share: Share
    """With the fewest accelerators on which it fits; else with the most that can be used."""
    available_bytes: int
    """Of each accelerator."""
    arithmetic: tuple[str, ...]
    """For people, a line a step."""


def fit(facts: ModelFacts, gpus: Accelerators, demand: Demand) -> Fit:
    """Whether it fits, and on how many of the accelerators.

    Raises ValueError for facts without the numbers that it takes, and for a demand that is none.
    """
    _check(facts, gpus, demand)
    available = int(gpus.memory_bytes * demand.utilisation)
    shares = [share_of(facts, demand, tensor_parallel) for tensor_parallel in parallel_sizes(facts, gpus.count)]
    chosen = next((share for share in shares if share.total_bytes <= available), shares[-1])
    fits = chosen.total_bytes <= available
    lines = [*_lines(facts, gpus, demand, chosen, available)]
    if not fits:
        lines.append(_advice(facts, demand, chosen, available))
    return Fit(fits, chosen, available, tuple(lines))


def usual_concurrency(context_tokens: int) -> int:
    """Requests at once where nobody said how many: as many whole ones as come to 65,536 tokens.

    At least one: an engine without room for that does not start. More would refuse every machine to a model of a long
    context, whose requests are seldom as long as they may be.
    """
    return max(1, USUAL_TOKENS // max(1, context_tokens))


def parallel_sizes(facts: ModelFacts, count: int) -> list[int]:
    """Over how many accelerators the model can be split: heads and inner widths are shared out evenly. Never empty.

    Heads of keys and values may also be on several accelerators each. Quantised widths are shared out in whole groups:
    an engine refuses anything else only once it has the weights.
    """
    heads, kv_heads = facts.attention_heads, facts.kv_heads
    widths = [width for width in (facts.intermediate_size, facts.expert_size) if width]
    return [
        size
        for size in range(1, count + 1)
        if size == 1
        or (
            heads % size == 0
            and (facts.latent_size or kv_heads % size == 0 or size % kv_heads == 0)
            and all(width % (size * max(facts.split_unit, 1)) == 0 for width in widths)
        )
    ]


def share_of(facts: ModelFacts, demand: Demand, tensor_parallel: int) -> Share:
    """What each of so many accelerators must hold."""
    return Share(
        tensor_parallel=tensor_parallel,
        weights_bytes=-(-facts.weights_bytes // tensor_parallel),
        cache_bytes=demand.concurrency * _request_bytes(facts, demand.context_tokens, tensor_parallel),
        engine_bytes=_engine_bytes(facts, demand, tensor_parallel),
    )


def least_bytes(facts: ModelFacts) -> int:
    """Memory of one accelerator that would do for a single short request. 0: the facts do not tell."""
    if not has_geometry(facts):
        return 0
    tokens = min(facts.context_length or LEAST_CONTEXT_TOKENS, LEAST_CONTEXT_TOKENS)
    return share_of(facts, Demand(context_tokens=tokens, concurrency=1), 1).total_bytes


def cache_bytes_a_token(facts: ModelFacts, tensor_parallel: int = 1) -> int:
    """Keys and values of one token in one layer, on each accelerator."""
    if facts.latent_size:
        # One latent for all heads: every accelerator has all of it.
        return facts.latent_size * _CACHE_NUMBER_BYTES
    return 2 * max(1, facts.kv_heads // tensor_parallel) * facts.head_size * _CACHE_NUMBER_BYTES


def _request_bytes(facts: ModelFacts, context_tokens: int, tensor_parallel: int) -> int:
    each = cache_bytes_a_token(facts, tensor_parallel)
    full = (facts.layers - facts.sliding_layers) * _in_blocks(context_tokens)
    # A window's worth, and what is read at once while the window moves over it.
    sliding = facts.sliding_layers * _in_blocks(min(context_tokens, facts.sliding_window + BATCHED_TOKENS))
    return each * (full + sliding)


def _in_blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def _engine_bytes(facts: ModelFacts, demand: Demand, tensor_parallel: int) -> int:
    """The runtime, and what a pass over a full batch needs at its widest: the layers' inner values, and the logits."""
    tokens = max(min(BATCHED_TOKENS, demand.context_tokens * demand.concurrency), demand.concurrency)
    inner = 4 * facts.hidden_size + 2 * facts.intermediate_size // tensor_parallel
    if facts.experts_per_token:
        # Each token goes to several experts: their inner values, and what each of them makes of the token.
        expert = facts.expert_size // tensor_parallel
        inner += facts.experts_per_token * (max(2 * expert, facts.hidden_size) + expert)
    logits = demand.concurrency * facts.vocabulary * 4 * 2
    return RUNTIME_BYTES + 2 * tokens * inner + logits


def has_geometry(facts: ModelFacts) -> bool:
    """Whether the facts have the numbers that it takes."""
    heads = facts.latent_size or (facts.kv_heads and facts.head_size)
    return bool(facts.weights_bytes and facts.layers and facts.attention_heads and heads)


def _check(facts: ModelFacts, gpus: Accelerators, demand: Demand) -> None:
    if not has_geometry(facts):
        raise ValueError("the model's files do not tell its layers and heads")
    if gpus.memory_bytes <= 0 or gpus.count <= 0:
        raise ValueError("there is no accelerator")
    if demand.context_tokens <= 0 or demand.concurrency <= 0 or not 0 < demand.utilisation <= 1:
        raise ValueError("context, concurrency and utilisation must be more than 0")
    if facts.context_length and demand.context_tokens > facts.context_length:
        raise ValueError(f"the model takes {facts.context_length:,} tokens, not {demand.context_tokens:,}")


def _lines(facts: ModelFacts, gpus: Accelerators, demand: Demand, share: Share, available_bytes: int) -> Iterator[str]:
    t = share.tensor_parallel
    over = f" / {t}" if t > 1 else ""
    layers = f"{facts.layers} layers"
    if facts.sliding_layers:
        layers += f" ({facts.sliding_layers} of them look back {facts.sliding_window:,} tokens)"
    each = cache_bytes_a_token(facts, t)
    whole = _gib(facts.weights_bytes).strip()
    yield f"weights   {_gib(share.weights_bytes)}  {facts.parameters:,} parameters, {whole}{over}"
    yield (
        f"KV cache  {_gib(share.cache_bytes)}  {each:,} bytes a token and layer x {layers} x "
        f"{demand.context_tokens:,} tokens x {demand.concurrency} requests"
    )
    yield f"engine    {_gib(share.engine_bytes)}  runtime, one pass over a full batch, logits"
    yield (
        f"needed    {_gib(share.total_bytes)}  on each of {t} x {gpus.name}; "
        f"{demand.utilisation:.0%} of {_gib(gpus.memory_bytes).strip()} are {_gib(available_bytes).strip()}"
    )
    verdict = "fits" if share.total_bytes <= available_bytes else "does not fit"
    yield f"{verdict}, tensor-parallel {t}" + (f" of {gpus.count}" if gpus.count > t else "")


def _advice(facts: ModelFacts, demand: Demand, share: Share, available_bytes: int) -> str:
    """What would fit on the same accelerators."""
    t = share.tensor_parallel
    one = Demand(context_tokens=demand.context_tokens, concurrency=1, utilisation=demand.utilisation)
    if share_of(facts, one, t).total_bytes > available_bytes:
        lesser = next(
            (
                tokens
                for tokens in _halves(demand.context_tokens)
                if share_of(facts, Demand(context_tokens=tokens, concurrency=1), t).total_bytes <= available_bytes
            ),
            0,
        )
        if lesser:
            return f"One request of {lesser:,} tokens would fit."
        return "Not even one short request would fit: take larger accelerators, more of them, or quantised weights."
    low, high = 1, demand.concurrency
    while high - low > 1:
        middle = (low + high) // 2
        asked = Demand(context_tokens=demand.context_tokens, concurrency=middle)
        low, high = (middle, high) if share_of(facts, asked, t).total_bytes <= available_bytes else (low, middle)
    return f"{low} requests of {demand.context_tokens:,} tokens at once would fit."


def _halves(tokens: int) -> Iterator[int]:
    while tokens > BLOCK_TOKENS:
        tokens //= 2
        yield tokens


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:8.2f} GiB"
