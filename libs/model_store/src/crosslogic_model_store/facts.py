"""What a model is, read from its own files: its configuration and the headers of its weights. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.quantization import quantization_of
from crosslogic_model_store.safetensors_header import TensorTotals

MAX_CONTEXT_TOKENS: Final = 10_000_000
_MAX_NUMBER: Final = 2**40
_DTYPE_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BF16": "bfloat16",
        "F16": "float16",
        "F32": "float32",
        "F64": "float64",
        "F8_E4M3": "fp8",
        "F8_E5M2": "fp8",
        "F4": "fp4",
        "I8": "int8",
        "U8": "packed",
        "I32": "packed",
    }
)
_LEFT_OUT: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        "gemma2": {"sliding_window_pattern": 2},
        "gemma3_text": {
            "sliding_window_pattern": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131_072,
            "vocab_size": 262_208,
        },
        "cohere2": {"sliding_window_pattern": 4},
    }
)
"""What published configurations do not say because it is the kind's default, by `model_type`."""
_ALL_SLIDE: Final = frozenset({"mistral", "mixtral", "starcoder2", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3"})
"""Kinds whose window is every layer's where they do not say otherwise."""
_STRETCHED: Final = frozenset({"yarn", "deepseek_yarn", "linear", "dynamic"})
"""Ways of scaling positions that lengthen the context beyond what the configuration says it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A version of a model, as far as running it is concerned. Numbers are 0 where the files do not tell."""

    architecture: str = ""
    dtype: str = ""
    """What most bytes of the weights are stored in: `bfloat16`, `fp8`, `packed` (quantised), ..."""
    quantization: str = ""
    """The method's name in the configuration, for example `awq`. Empty: none."""
    parameters: int = 0
    """Weights, those that are packed by their number; without the scales of quantised ones."""
    weights_bytes: int = 0
    context_length: int = 0
    """Tokens that prompt and answer may have together."""
    licence: str = ""
    """As the model's card or the operator says, for example `apache-2.0`."""
    chat_template: bool = False
    layers: int = 0
    """All layers that keep keys and values, sliding ones included."""
    sliding_layers: int = 0
    """Of `layers`, those that look back no further than `sliding_window` tokens."""
    sliding_window: int = 0
    attention_heads: int = 0
    kv_heads: int = 0
    head_size: int = 0
    latent_size: int = 0
    """Numbers a token and layer of multi-head latent attention, in place of heads. 0: it has none."""
    hidden_size: int = 0
    intermediate_size: int = 0
    vocabulary: int = 0
    experts_per_token: int = 0
    """0: every weight is used for every token."""
    expert_size: int = 0
    """Inner width of one expert."""
    split_unit: int = 0
    """Inner widths can be shared out only in multiples of this, since weights share scales. 0: any."""


def facts_of(
    config: Mapping[str, Any], weights: TensorTotals, *, licence: str = "", chat_template: bool = False
) -> ModelFacts:
    """The facts of a model. `config` is its config.json. Raises ModelStoreError for numbers that cannot be."""
    inner = _inner(config)
    heads = _number(inner, "num_attention_heads", "n_head", "n_heads")
    hidden = _number(inner, "hidden_size", "n_embd", "d_model")
    wide = _number(inner, "intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim") or 4 * hidden
    experts = _number(inner, "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk")
    layers, sliding, window = _layers(inner)
    latent = _number(inner, "kv_lora_rank")
    quantization = quantization_of(inner)
    return ModelFacts(
        architecture=_first_text(config.get("architectures")),
        dtype=_dtype(weights),
        quantization=quantization.method,
        parameters=weights.elements,
        weights_bytes=weights.size_bytes,
        context_length=_context(inner),
        licence=licence,
        chat_template=chat_template,
        layers=layers,
        sliding_layers=sliding,
        sliding_window=window,
        attention_heads=heads,
        kv_heads=_kv_heads(inner, heads),
        head_size=_number(inner, "head_dim", "kv_channels") or (hidden // heads if heads else 0),
        latent_size=latent + _number(inner, "qk_rope_head_dim") if latent else 0,
        hidden_size=hidden,
        intermediate_size=wide,
        vocabulary=_number(inner, "vocab_size", "padded_vocab_size"),
        experts_per_token=experts,
        expert_size=(_number(inner, "moe_intermediate_size") or wide) if experts else 0,
        split_unit=quantization.unit,
    )


def _inner(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's own numbers, which models that also see or hear keep one level below."""
    names = ("text_config", "llm_config", "language_config")
    text = next((found for name in names if isinstance(found := config.get(name), Mapping)), {})
    inner: dict[str, Any] = {**config, **text}
    return {**_LEFT_OUT.get(_kind(inner), {}), **inner}


def _kind(config: Mapping[str, Any]) -> str:
    return _text(config.get("model_type"))


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    said = _number(config, "num_key_value_heads", "num_kv_heads", "multi_query_group_num")
    if not said and config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return 1
    return said or heads


def _context(config: Mapping[str, Any]) -> int:
    """Tokens, with what positions are stretched by, as engines reckon it."""
    said = _number(config, "max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if isinstance(rope, Mapping) and "gemma3" not in _kind(config):
        factor, kind = rope.get("factor"), _text(rope.get("rope_type", rope.get("type")))
        if kind in _STRETCHED and isinstance(factor, int | float) and 1 <= factor <= _MAX_NUMBER:
            unstretched = _number(rope, "original_max_position_embeddings") or said
            said = max(said, int(unstretched * factor))
    return min(said, MAX_CONTEXT_TOKENS)


def _layers(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Layers that keep keys and values, those of them that slide, and their window."""
    count = _number(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    window = _number(config, "sliding_window", "attention_chunk_size")
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and kinds:
        if len(kinds) != count:
            return count, 0, 0
        full = sum(kind == "full_attention" for kind in kinds)
        near = sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
        # What is none of these (linear attention, state spaces) keeps the same few bytes whatever the context is.
        return full + near, near if window else 0, window if near else 0
    window = _number(config, "sliding_window")
    if not window or not config.get("use_sliding_window", not _kind(config).startswith("qwen")):
        return count, 0, 0
    sliding = _sliding(config, count)
    return count, sliding, window if sliding else 0


def _sliding(config: Mapping[str, Any], count: int) -> int:
    """Layers with a window where they are not listed one by one. Of a kind that is not known here, none: to be safe."""
    if pattern := _number(config, "sliding_window_pattern"):
        return count - count // pattern
    if _kind(config) not in _ALL_SLIDE:
        return 0
    # Qwen's first layers see everything, as many as this says.
    return max(0, count - _number(config, "max_window_layers"))


def _dtype(weights: TensorTotals) -> str:
    if not weights.bytes_by_dtype:
        return ""
    most = max(weights.bytes_by_dtype, key=lambda dtype: (weights.bytes_by_dtype[dtype], dtype))
    return _DTYPE_NAMES.get(most, most.lower())


def _number(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, list) and value and all(isinstance(each, int) for each in value):
            # One for each layer: what the widest needs.
            value = max(value)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
            raise ModelStoreError(f"config.json: `{name}` must be a whole number of 0 or more, not {value!r:.60}.")
        return value
    return 0


def _text(value: object) -> str:
    return value[:200] if isinstance(value, str) and value.isprintable() else ""


def _first_text(values: object) -> str:
    return _text(next(iter(values), "")) if isinstance(values, Iterable) and not isinstance(values, str) else ""
