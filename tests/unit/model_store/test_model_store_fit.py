"""Whether known models fit on known machines; the numbers are those of their published configurations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_model_store.facts import ModelFacts, facts_of
from crosslogic_model_store.fit import (
    GIB,
    Accelerators,
    Demand,
    cache_bytes_a_token,
    fit,
    least_bytes,
    parallel_sizes,
    share_of,
)
from crosslogic_model_store.gpus import accelerators, accelerators_of
from crosslogic_model_store.safetensors_header import TensorTotals


def published(config: dict[str, object], parameters: float, bytes_each: float = 2.0) -> ModelFacts:
    weights = int(parameters * bytes_each)
    return facts_of(config, TensorTotals(int(parameters), weights, {"BF16": weights}))


LLAMA_8B = published(
    {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    },
    8.03e9,
)
LLAMA_70B = published(
    {
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    },
    70.6e9,
)
DEEPSEEK_V3 = published(
    {
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "vocab_size": 129280,
        "max_position_embeddings": 163840,
    },
    671e9,
    1.0,
)
GPT_OSS_20B = published(
    {
        "num_hidden_layers": 24,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "vocab_size": 201088,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
        "max_position_embeddings": 131072,
    },
    13.8e9,
    1.0,
)


def gpus(name: str, count: int = 1) -> Accelerators:
    found = accelerators(name, count)
    assert found is not None
    return found


def test_the_caches_of_known_models_have_the_sizes_that_their_papers_give() -> None:
    assert cache_bytes_a_token(LLAMA_8B) * LLAMA_8B.layers == 131_072  # 128 KiB a token
    assert cache_bytes_a_token(LLAMA_70B) * LLAMA_70B.layers == 327_680  # 320 KiB
    assert cache_bytes_a_token(DEEPSEEK_V3) * DEEPSEEK_V3.layers == 70_272  # 576 numbers a layer
    assert (GPT_OSS_20B.layers, GPT_OSS_20B.sliding_layers, GPT_OSS_20B.sliding_window) == (24, 12, 128)


@pytest.mark.parametrize(
    ("facts", "machine", "context", "at_once", "fits", "tensor_parallel"),
    [
        (LLAMA_8B, gpus("H100"), 8192, 16, True, 1),
        (LLAMA_8B, gpus("L4"), 8192, 1, True, 1),
        (LLAMA_8B, gpus("L4"), 8192, 64, False, 1),
        (LLAMA_8B, gpus("T4"), 4096, 1, False, 1),
        (LLAMA_8B, gpus("T4", 4), 4096, 1, True, 2),
        (LLAMA_70B, gpus("H100"), 8192, 1, False, 1),
        (LLAMA_70B, gpus("H100", 8), 8192, 4, True, 4),
        (LLAMA_70B, gpus("H200", 8), 8192, 16, True, 2),
        (LLAMA_70B, gpus("A100", 8), 131072, 3, True, 8),
        (DEEPSEEK_V3, gpus("H100", 8), 8192, 1, False, 8),
        (DEEPSEEK_V3, gpus("H200", 8), 8192, 64, True, 8),
        (GPT_OSS_20B, gpus("L4"), 8192, 8, True, 1),
    ],
)
def test_what_is_known_to_fit_fits_and_the_rest_is_refused(
    facts: ModelFacts, machine: Accelerators, context: int, at_once: int, fits: bool, tensor_parallel: int
) -> None:
    found = fit(facts, machine, Demand(context_tokens=context, concurrency=at_once))
    assert (found.fits, found.share.tensor_parallel) == (fits, tensor_parallel), "\n".join(found.arithmetic)


def test_the_arithmetic_adds_up_and_says_what_would_fit() -> None:
    found = fit(LLAMA_8B, gpus("L4"), Demand(context_tokens=8192, concurrency=64))
    assert found.arithmetic[1].startswith("KV cache     64.00 GiB")
    assert "does not fit" in found.arithmetic[4]
    most = int(found.arithmetic[5].split()[0])
    assert fit(LLAMA_8B, gpus("L4"), Demand(context_tokens=8192, concurrency=most)).fits
    assert not fit(LLAMA_8B, gpus("L4"), Demand(context_tokens=8192, concurrency=most + 1)).fits
    shorter = fit(LLAMA_8B, gpus("L4"), Demand(context_tokens=131_072, concurrency=1)).arithmetic[5]
    assert shorter.startswith("One request of ")
    assert "quantised" in fit(LLAMA_70B, gpus("L4"), Demand(context_tokens=8192, concurrency=1)).arithmetic[5]


def test_heads_decide_over_how_many_accelerators_a_model_is_split() -> None:
    assert parallel_sizes(LLAMA_8B, 8) == [1, 2, 4, 8]
    assert parallel_sizes(LLAMA_8B, 6) == [1, 2, 4]


def test_sliding_layers_hold_their_window_only() -> None:
    short = share_of(GPT_OSS_20B, Demand(context_tokens=131_072, concurrency=1), 1).cache_bytes
    assert short < 0.6 * 131_072 * 24 * cache_bytes_a_token(GPT_OSS_20B)


@given(
    context=st.integers(1, 131_072),
    at_once=st.integers(1, 4_096),
    memory=st.integers(1, 300),
    count=st.integers(1, 16),
)
def test_more_memory_or_less_to_do_never_turns_yes_into_no(context: int, at_once: int, memory: int, count: int) -> None:
    demand = Demand(context_tokens=context, concurrency=at_once)
    if fit(LLAMA_70B, Accelerators("some", memory * GIB, count), demand).fits:
        assert fit(LLAMA_70B, Accelerators("some", (memory + 1) * GIB, count), demand).fits
        assert fit(LLAMA_70B, Accelerators("some", memory * GIB, count + 1), demand).fits
        lesser = Demand(context_tokens=max(1, context // 2), concurrency=max(1, at_once - 1))
        assert fit(LLAMA_70B, Accelerators("some", memory * GIB, count), lesser).fits


@pytest.mark.parametrize(
    ("context", "at_once", "match"), [(0, 1, "more than 0"), (1, 0, "more than 0"), (200_000, 1, "takes 131,072")]
)
def test_a_demand_that_is_none_is_told(context: int, at_once: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit(LLAMA_8B, gpus("L4"), Demand(context_tokens=context, concurrency=at_once))


def test_a_model_without_numbers_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="do not tell"):
        fit(ModelFacts(weights_bytes=1), gpus("L4"), Demand(context_tokens=1, concurrency=1))
    assert least_bytes(ModelFacts(weights_bytes=1)) == 0
    assert 16e9 < least_bytes(LLAMA_8B) < 20e9


def test_machines_are_known_by_their_clouds_names() -> None:
    assert accelerators_of("p5.48xlarge") == gpus("H100", 8)
    assert accelerators_of("H100:8") == gpus("h100", 8)
    assert accelerators_of("m5.large") is None
    assert accelerators("H100", 0) is None
