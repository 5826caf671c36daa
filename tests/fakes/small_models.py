"""Folders that look like models: real safetensors, made by hand."""

import json
import random
from dataclasses import replace
from pathlib import Path

from crosslogic_model_store.manifest import Manifest, revision_of

_NOISE_BYTES = 64 * 2**20
TINY_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "vocab_size": 512,
    "torch_dtype": "bfloat16",
}


def write_safetensors(file: Path, tensors: dict[str, tuple[str, list[int], int]], *, seed: int = 1) -> None:
    """`tensors`: dtype, shape and bytes of each by its name; filled with noise that the seed decides."""
    header, offset = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    noise = random.Random(seed)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        # As much as Python makes at a time.
        for start in range(0, offset, _NOISE_BYTES):
            opened.write(noise.randbytes(min(_NOISE_BYTES, offset - start)))


def before_parts(manifest: Manifest) -> Manifest:
    """The same files as they were written down before files had a checksum of their parts."""
    files = tuple(replace(file, tree="") for file in manifest.files)
    return replace(manifest, files=files, part_bytes=0, revision=revision_of(files))


def make_model(folder: Path, *, weights_bytes: int = 4096, seed: int = 1, shards: int = 1) -> Path:
    """A model of bfloat16 weights, with a card, a pickle and code that must stay behind."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    names = [f"model-{index + 1:05}-of-{shards:05}.safetensors" for index in range(shards)]
    each = weights_bytes // shards // 2 * 2
    for index, name in enumerate(names):
        write_safetensors(folder / name, {f"w{index}": ("BF16", [each // 2], each)}, seed=seed + index)
    index_file = {"weight_map": {f"w{index}": name for index, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file))
    return folder
