"""What published models are and need, reckoned by hand beside what is reckoned here.

The configurations are those that their makers published, as far as memory goes; bytes of weights are their indexes'
`total_size`. Every expected number has its arithmetic beside it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.facts import ModelFacts, facts_of
from crosslogic_model_store.fit import (
    GIB,
    RUNTIME_BYTES,
    Demand,
    cache_bytes_a_token,
    fit,
    parallel_sizes,
    share_of,
    usual_concurrency,
)
from crosslogic_model_store.gpus import accelerators
from crosslogic_model_store.local_model import read_model
from crosslogic_model_store.safetensors_header import TensorTotals
from tests.fakes.small_models import TINY_CONFIG, make_model, write_safetensors

LLAMA_70B: dict[str, Any] = json.loads("""{
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
    "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}
}""")
QWEN_72B_AWQ: dict[str, Any] = json.loads("""{
    "model_type": "qwen2", "hidden_size": 8192, "intermediate_size": 29696, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 152064, "max_position_embeddings": 32768,
    "sliding_window": 131072, "use_sliding_window": false, "max_window_layers": 70,
    "quantization_config": {"bits": 4, "group_size": 128, "quant_method": "awq", "version": "gemm", "zero_point": true}
}""")
MIXTRAL: dict[str, Any] = json.loads("""{
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768,
    "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": null
}""")
DEEPSEEK_V3: dict[str, Any] = json.loads("""{
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128, "v_head_dim": 128, "q_lora_rank": 1536, "vocab_size": 129280,
    "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 2048,
    "max_position_embeddings": 163840,
    "rope_scaling": {"factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"},
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
}""")
QWEN_235B_FP8: dict[str, Any] = json.loads("""{
    "model_type": "qwen3_moe", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 94,
    "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
    "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1536,
    "max_position_embeddings": 40960, "sliding_window": null, "use_sliding_window": false,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
}""")
GEMMA_2_9B: dict[str, Any] = json.loads("""{
    "model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "vocab_size": 256000,
    "max_position_embeddings": 8192, "sliding_window": 4096, "cache_implementation": "hybrid"
}""")
GEMMA_3_27B: dict[str, Any] = json.loads("""{
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62,
        "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16}
}""")


def facts(config: dict[str, Any], weights_bytes: int, dtype: str = "BF16") -> ModelFacts:
    return facts_of(config, TensorTotals(weights_bytes // 2, weights_bytes, {dtype: weights_bytes}))


def test_llama_70b_on_four_h100() -> None:
    model = facts(LLAMA_70B, 141_107_412_992)
    # llama3's scaling is what the 131,072 already are.
    assert (model.context_length, model.head_size, parallel_sizes(model, 8)) == (131_072, 128, [1, 2, 4, 8])
    share = share_of(model, Demand(context_tokens=8192, concurrency=16), 4)
    assert share.weights_bytes == 141_107_412_992 // 4
    # 2 of 8 heads on each x 128 numbers x (key, value) x 2 bytes = 1,024 bytes a token and layer.
    assert share.cache_bytes == 1024 * 80 * 8192 * 16 == 10 * GIB
    # 8,192 tokens x (4 x 8,192 + 2 x 28,672 / 4) x 2 bytes; 16 rows of logits, twice, 4 bytes.
    assert share.engine_bytes == RUNTIME_BYTES + 8192 * (32_768 + 14_336) * 2 + 16 * 128_256 * 8
    machine = accelerators("H100", 8)
    assert machine is not None
    # Two would have to hold 65.7 GiB of weights and 20 GiB of cache each, of 71.2.
    assert fit(model, machine, Demand(context_tokens=8192, concurrency=16)).share.tensor_parallel == 4


@pytest.mark.parametrize(
    ("context", "at_once"), [(131_072, 1), (65_536, 1), (8192, 8), (4096, 16), (1, 65_536), (0, 65_536)]
)
def test_where_nobody_says_how_many_at_once_one_whole_request_is_enough(context: int, at_once: int) -> None:
    assert usual_concurrency(context) == at_once


def test_llama_8b_with_its_whole_context_is_not_refused_one_h100() -> None:
    shape = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    model = facts({**LLAMA_70B, **shape}, 16_060_522_496)
    machine = accelerators("H100")
    assert machine is not None
    demand = Demand(context_tokens=131_072, concurrency=usual_concurrency(131_072))
    # 4,096 bytes a token and layer x 32 layers x 131,072 tokens = 16 GiB; 16 such requests would be 256.
    assert share_of(model, demand, 1).cache_bytes == 16 * GIB
    assert fit(model, machine, demand).fits


def test_qwen_72b_awq_is_split_in_whole_groups() -> None:
    model = facts(QWEN_72B_AWQ, 41_609_302_016, "I32")
    assert (model.quantization, model.dtype, model.split_unit) == ("awq", "packed", 128)
    assert (model.sliding_layers, model.context_length) == (0, 32_768)
    # 29,696 = 232 groups of 128: 232 / 8 = 29 each.
    assert parallel_sizes(model, 8) == [1, 2, 4, 8]
    # Without the groups that its makers added it is 29,568 = 231 groups, which two cannot share.
    assert parallel_sizes(facts({**QWEN_72B_AWQ, "intermediate_size": 29_568}, 41_609_302_016), 8) == [1]
    # 8 heads x 128 x 2 x 2 bytes x 80 layers = 320 KiB a token; 4,096 tokens of it are 1.25 GiB.
    assert share_of(model, Demand(context_tokens=4096, concurrency=1), 1).cache_bytes == 327_680 * 4096
    one = accelerators("A100-80GB")
    assert one is not None
    assert fit(model, one, Demand(context_tokens=4096, concurrency=16)).fits


def test_experts_take_memory_while_they_are_used() -> None:
    model = facts(MIXTRAL, 93_405_585_408)
    assert (model.experts_per_token, model.expert_size, model.sliding_layers) == (2, 14_336, 0)
    share = share_of(model, Demand(context_tokens=8192, concurrency=1), 2)
    # 4 of 8 heads x 128 x 2 x 2 bytes = 2,048 bytes x 32 layers x 8,192 tokens = 0.5 GiB.
    assert share.cache_bytes == 2048 * 32 * 8192 == GIB // 2
    # A layer's 4 x 4,096 + 14,336, and for each of 2 experts 2 x 7,168 going in and 7,168 within.
    inner = 4 * 4096 + 2 * 14_336 // 2 + 2 * (14_336 + 7168)
    assert share.engine_bytes == RUNTIME_BYTES + 2 * 8192 * inner + 32_000 * 8


def test_deepseek_keeps_one_latent_for_all_heads_on_every_accelerator() -> None:
    model = facts(DEEPSEEK_V3, 688_586_727_753, "F8_E4M3")
    assert (model.latent_size, model.quantization, model.dtype) == (512 + 64, "fp8", "fp8")
    # 4,096 x 40 are the 163,840 that it says: not stretched twice.
    assert model.context_length == 163_840
    # 576 numbers x 2 bytes x 61 layers = 70,272 bytes a token, on one accelerator as on eight.
    for size in (1, 8):
        assert cache_bytes_a_token(model, size) * model.layers == 70_272
    # 18,432 / 32 = 576 is no multiple of 128: what users of 32 accelerators ran into.
    assert parallel_sizes(model, 32) == [1, 2, 4, 8, 16]
    # 8,192 tokens x (4 x 7,168 + 2 x 18,432 / 8 + 8 experts x (7,168 + 2,048 / 8)) x 2 bytes.
    engine = share_of(model, Demand(context_tokens=8192, concurrency=1), 8).engine_bytes
    assert engine == RUNTIME_BYTES + 8192 * (28_672 + 4608 + 8 * (7168 + 256)) * 2 + 129_280 * 8


def test_experts_that_are_too_narrow_for_their_scales_are_not_split_over_eight() -> None:
    # 1,536 / 8 = 192 is no multiple of 128: the engine refuses eight, with all weights fetched. Four hold 384 each.
    model = facts(QWEN_235B_FP8, 236_000_000_000, "F8_E4M3")
    assert parallel_sizes(model, 8) == [1, 2, 4]
    machine = accelerators("H100", 8)
    assert machine is not None
    assert fit(model, machine, Demand(context_tokens=8192, concurrency=16)).share.tensor_parallel == 4


def test_gemma_2_slides_in_every_other_layer_though_its_configuration_lists_none() -> None:
    model = facts(GEMMA_2_9B, 18_483_411_968)
    assert (model.layers, model.sliding_layers, model.sliding_window) == (42, 21, 4096)
    # 8 heads x 256 x 2 x 2 bytes = 8 KiB a token and layer x 42 layers x 8,192 tokens (window and batch are more).
    assert share_of(model, Demand(context_tokens=8192, concurrency=1), 1).cache_bytes == 8192 * 42 * 8192


def test_gemma_3_says_little_of_itself_and_keeps_the_rest_one_level_below() -> None:
    model = facts(GEMMA_3_27B, 54_865_000_000)
    assert model.architecture == "Gemma3ForConditionalGeneration"
    assert (model.context_length, model.vocabulary) == (131_072, 262_208)
    # Every sixth of 62 layers sees everything.
    assert (model.layers, model.sliding_layers, model.sliding_window) == (62, 52, 1024)
    # 16 heads x 128 x 2 x 2 bytes = 8 KiB; 10 layers of 131,072 tokens, 52 of 1,024 + 8,192.
    cache = share_of(model, Demand(context_tokens=131_072, concurrency=1), 1).cache_bytes
    assert cache == 8192 * (10 * 131_072 + 52 * 9216)
    small = {"text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34}}
    found = facts({"model_type": "gemma3", **small}, 8_600_000_000)
    assert (found.attention_heads, found.kv_heads, found.head_size) == (8, 4, 256)


def test_windows_are_believed_only_of_models_that_are_known_to_have_them() -> None:
    base = {**TINY_CONFIG, "sliding_window": 128}
    assert facts({**base, "model_type": "mistral"}, 100).sliding_layers == 2
    assert facts({**base, "model_type": "something-new"}, 100).sliding_layers == 0
    assert facts({**base, "model_type": "qwen2"}, 100).sliding_layers == 0
    qwen = {**base, "model_type": "qwen2", "use_sliding_window": True, "num_hidden_layers": 28, "max_window_layers": 20}
    assert facts(qwen, 100).sliding_layers == 8
    chunks = {**TINY_CONFIG, "attention_chunk_size": 8192, "layer_types": ["chunked_attention", "full_attention"]}
    chunked = facts(chunks, 100)
    assert (chunked.layers, chunked.sliding_layers, chunked.sliding_window) == (2, 1, 8192)
    assert facts({**base, "layer_types": ["full_attention"]}, 100).sliding_layers == 0


def test_one_head_of_keys_for_all_is_one() -> None:
    falcon = {"num_hidden_layers": 32, "num_attention_heads": 71, "hidden_size": 4544, "multi_query": True}
    assert cache_bytes_a_token(facts(falcon, 14_434_000_000)) == 2 * 1 * 64 * 2
    assert facts({**falcon, "new_decoder_architecture": True, "num_kv_heads": 8}, 100).kv_heads == 8


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"rope_type": "linear", "factor": 4}, 8192),
        ({"rope_type": "llama3", "factor": 8.0}, 2048),
        ({"rope_type": "yarn", "factor": float("nan")}, 2048),
        ({"rope_type": "yarn", "factor": "4"}, 2048),
        ({"rope_type": ["yarn"], "factor": 4}, 2048),
        ("yarn", 2048),
    ],
)
def test_a_context_that_was_stretched_is_told_as_the_engine_will(rope: object, context: int) -> None:
    assert facts({**TINY_CONFIG, "rope_scaling": rope}, 100).context_length == context


def test_numbers_that_differ_from_layer_to_layer_are_taken_at_their_widest() -> None:
    assert facts({**TINY_CONFIG, "intermediate_size": [128, 256]}, 100).intermediate_size == 256
    for wrong in ([True], ["128"], 1.5, -1, 2**50):
        with pytest.raises(ModelStoreError, match="intermediate_size"):
            facts({**TINY_CONFIG, "intermediate_size": wrong}, 100)
    strange = {**TINY_CONFIG, "model_type": ["x"], "quantization_config": {"quant_method": 7, "group_size": -1}}
    assert facts({**strange, "text_config": "none", "layer_types": "all"}, 100).split_unit == 0


@pytest.mark.parametrize(
    ("quantization", "tensors", "parameters", "dtype"),
    [
        (
            {"quant_method": "awq", "bits": 4, "group_size": 128},
            {
                "l.qweight": ("I32", [128, 16], 8192),
                "l.qzeros": ("I32", [1, 16], 64),
                "l.scales": ("F16", [1, 128], 256),
                "norm.weight": ("F16", [128], 256),
            },
            128 * 128 + 128,
            "packed",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
            },
            {"l.weight_packed": ("I32", [128, 16], 8192), "l.weight_scale": ("BF16", [128, 1], 256)},
            128 * 128,
            "packed",
        ),
        (
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
            {"l.weight": ("F8_E4M3", [128, 128], 16384), "l.weight_scale_inv": ("F32", [1, 1], 4)},
            128 * 128,
            "fp8",
        ),
        (
            {"quant_method": "mxfp4"},
            {"l_blocks": ("U8", [64, 16], 1024), "l_scales": ("U8", [64], 64), "b": ("BF16", [8], 16)},
            2048 + 8,
            "packed",
        ),
    ],
)
def test_the_catalogue_tells_how_many_weights_a_quantised_model_has(
    tmp_path: Path,
    quantization: dict[str, object],
    tensors: dict[str, tuple[str, list[int], int]],
    parameters: int,
    dtype: str,
) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "model.safetensors.index.json").unlink()
    write_safetensors(folder / "model-00001-of-00001.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({**TINY_CONFIG, "quantization_config": quantization}))
    found = read_model(folder, "tiny").manifest.facts
    assert (found.parameters, found.dtype, found.quantization) == (parameters, dtype, quantization["quant_method"])
    assert found.weights_bytes == sum(size for _, _, size in tensors.values())


@pytest.mark.parametrize(
    ("file", "said", "method", "unit"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 64}, "gptq", 64),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4", "group_size": 16}}, "modelopt", 16),
        ("hf_quant_config.json", {"quantization": None}, "modelopt", 0),
    ],
)
def test_what_older_tools_wrote_beside_the_configuration_counts(
    tmp_path: Path, file: str, said: object, method: str, unit: int
) -> None:
    folder = make_model(tmp_path / "m")
    (folder / file).write_text(json.dumps(said))
    found = read_model(folder, "tiny").manifest.facts
    assert (found.quantization, found.split_unit) == (method, unit)
