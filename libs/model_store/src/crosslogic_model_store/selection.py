"""Which files of a model's folder belong to the model: weights that cannot be executed, configurations, tokenizers."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

MANIFEST_NAME: Final = ".crosslogic-manifest.json"
WEIGHTS_SUFFIX: Final = ".safetensors"
_NAMES: Final = frozenset(
    {
        *("config.json", "generation_config.json", "model.safetensors.index.json", "quantize_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
        *("vocab.json", "vocab.txt", "merges.txt", "tekken.json", "spiece.model", "sentencepiece.bpe.model"),
        *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
        *("chat_template.json", "chat_template.jinja", "hf_quant_config.json", "params.json"),
        *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    }
)
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)
_MAX_SEGMENTS: Final = 3
_VENDORS: Final = (WEIGHTS_SUFFIX, ".safetensors.index.json")


def is_wanted(path: str) -> bool:
    """Whether a file, by its path below the model's folder, is part of a model.

    Anything else stays behind: pickles (`.bin`, `.pt`, `.pth`, `.ckpt`) and Python run code when they are loaded.
    """
    segments = path.split("/")
    if len(segments) > _MAX_SEGMENTS or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        return False
    name = PurePosixPath(path).name
    return name.endswith((WEIGHTS_SUFFIX, ".tiktoken", ".safetensors.index.json")) or name in _NAMES


def without_second_layout(paths: Iterable[str]) -> list[str]:
    """The same without what is there a second time.

    Some vendors lay the weights down twice, in the hub's layout and in their own (`consolidated*.safetensors` with
    `params.json`). Engines read one; both would be stored, fetched, and counted into the memory that the model needs.
    """
    found = list(paths)
    if not any(_is_hubs_layout(path) for path in found):
        return found
    return [path for path in found if not (path == "params.json" or _is_vendors_layout(path))]


def _is_hubs_layout(path: str) -> bool:
    return "/" not in path and path.startswith("model") and path.endswith(WEIGHTS_SUFFIX)


def _is_vendors_layout(path: str) -> bool:
    return "/" not in path and path.startswith("consolidated") and path.endswith(_VENDORS)
