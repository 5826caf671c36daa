"""What a model is, read from its own files: its configuration and the headers of its weights. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from crosslogic_model_store.errors import ModelStoreError
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A version of a model, as far as running it is concerned. Numbers are 0 where the files do not tell."""

    architecture: str = ""
    dtype: str = ""
    """What most bytes of the weights are stored in: `bfloat16`, `fp8`, `packed` (quantised), ..."""
    quantization: str = ""
    """The method's name in the configuration, for example `awq`. Empty: none."""
    parameters: int = 0
    """Elements stored. Quantised weights that are packed count as packed."""
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


def facts_of(
    config: Mapping[str, Any], weights: TensorTotals, *, licence: str = "", chat_template: bool = False
) -> ModelFacts:
    """The facts of a model. `config` is its config.json. Raises ModelStoreError for numbers that cannot be."""
    # Models that also see or hear keep the language model's numbers one level below.
    text = config.get("text_config")
    inner: Mapping[str, Any] = {**config, **text} if isinstance(text, Mapping) else config
    heads = _number(inner, "num_attention_heads", "n_head")
    hidden = _number(inner, "hidden_size", "n_embd")
    layers, sliding, window = _layers(inner)
    latent = _number(inner, "kv_lora_rank")
    quantization = inner.get("quantization_config")
    return ModelFacts(
        architecture=_first_text(inner.get("architectures")),
        dtype=_dtype(weights),
        quantization=_text(quantization.get("quant_method")) if isinstance(quantization, Mapping) else "",
        parameters=weights.elements,
        weights_bytes=weights.size_bytes,
        context_length=min(
            _number(inner, "max_position_embeddings", "n_positions", "max_sequence_length"), MAX_CONTEXT_TOKENS
        ),
        licence=licence,
        chat_template=chat_template,
        layers=layers,
        sliding_layers=sliding,
        sliding_window=window,
        attention_heads=heads,
        kv_heads=_number(inner, "num_key_value_heads", "num_kv_heads") or heads,
        head_size=_number(inner, "head_dim") or (hidden // heads if heads else 0),
        latent_size=latent + _number(inner, "qk_rope_head_dim") if latent else 0,
        hidden_size=hidden,
        intermediate_size=_number(inner, "intermediate_size", "n_inner") or 4 * hidden,
        vocabulary=_number(inner, "vocab_size"),
    )


def _layers(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Layers that keep keys and values, those of them that slide, and their window."""
    count = _number(config, "num_hidden_layers", "n_layer")
    window = _number(config, "sliding_window")
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and kinds and len(kinds) == count:
        full = sum(kind == "full_attention" for kind in kinds)
        sliding = sum(kind == "sliding_attention" for kind in kinds) if window else 0
        # What is neither (linear attention, state spaces) keeps the same few bytes whatever the context is.
        return full + sliding, sliding, window if sliding else 0
    if window and config.get("use_sliding_window", True) and "layer_types" not in config:
        pattern = _number(config, "sliding_window_pattern")
        sliding = count - count // pattern if pattern else count
        return count, sliding, window
    return count, 0, 0


def _dtype(weights: TensorTotals) -> str:
    if not weights.bytes_by_dtype:
        return ""
    most = max(weights.bytes_by_dtype, key=lambda dtype: (weights.bytes_by_dtype[dtype], dtype))
    return _DTYPE_NAMES.get(most, most.lower())


def _number(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
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
