"""Makes a tiny Llama with random weights, for engines that must run in seconds on any CPU.

Run it with the engine's own Python: `python -m crosslogic_dev.engine.tiny_model OUT_DIR`. It needs torch, safetensors
and tokenizers there, no network, and about two seconds. The same source always gives the same bytes.

What it says is nonsense but printable: only whole English words and a few marks have output weights that are not
zero, so sampling at ordinary temperatures hardly ever leaves them. It never ends by itself (the end token is one of the
zero rows): an answer is as long as `max_tokens` says, which is what a test of counting wants.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crosslogic_dev.engine.tiny_words import WORDS

SEED = 20240611
HIDDEN = 128
LAYERS = 2
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 32
INTERMEDIATE = 256
CONTEXT_TOKENS = 8192

BOS = "<|begin|>"
EOS = "<|end|>"
PAD = "<|pad|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")

# Standard deviation of a spoken row of the output layer. With HIDDEN unit-size inputs a logit then spreads by about
# OUTPUT_SCALE * sqrt(HIDDEN) = 5: enough for words to crowd out the zero rows, not so much that sampling is greedy.
OUTPUT_SCALE = 0.45

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- if tools %}{{- '<|system|>\\nTools: ' + (tools | tojson) + '<|end|>\\n' -}}{% endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|' + message.role + '|>\\n' + (message.content or '') + '<|end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' -}}{% endif -%}"
)


def byte_symbols() -> Mapping[int, str]:
    """The printable character that byte-level BPE writes for each byte, 0 to 255, as GPT-2 defined it."""
    keep = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {byte: chr(byte) for byte in keep}
    others = [byte for byte in range(256) if byte not in symbols]
    symbols.update({byte: chr(256 + place) for place, byte in enumerate(others)})
    return symbols


def build_vocabulary(words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]], list[int]]:
    """The BPE vocabulary, its merges in order of priority, and the ids that the model speaks.

    Ids: the special tokens, the 256 bytes, then every prefix on the way to " word" for each word.
    """
    symbols = byte_symbols()
    vocabulary = {token: place for place, token in enumerate(SPECIAL_TOKENS)}
    for byte in range(256):
        vocabulary[symbols[byte]] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    spoken = [vocabulary[mark] for mark in (".", ",")]
    for word in words:
        letters = [symbols[byte] for byte in f" {word}".encode()]
        prefix = letters[0]
        for letter in letters[1:]:
            longer = prefix + letter
            if longer not in vocabulary:
                vocabulary[longer] = len(vocabulary)
                merges.append((prefix, letter))
            prefix = longer
        spoken.append(vocabulary[prefix])
    return vocabulary, merges, sorted(set(spoken))


def write_tokenizer(out: Path) -> tuple[int, list[int]]:
    """Writes the tokenizer's files; returns the vocabulary's size and the ids that the model speaks."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: PLC0415

    vocabulary, merges, spoken = build_vocabulary(WORDS)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONTEXT_TOKENS,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    return len(vocabulary), spoken


def write_weights(out: Path, *, vocabulary_size: int, spoken: Sequence[int]) -> None:
    """Writes model.safetensors: bfloat16, random from SEED, output rows zero but for the spoken ids."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    generator = torch.Generator().manual_seed(SEED)

    def random(rows: int, columns: int, scale: float | None = None) -> Any:
        spread = 1 / math.sqrt(columns) if scale is None else scale
        return (torch.randn(rows, columns, generator=generator) * spread).to(torch.bfloat16)

    def ones() -> Any:
        return torch.ones(HIDDEN, dtype=torch.bfloat16)

    output = torch.zeros(vocabulary_size, HIDDEN, dtype=torch.bfloat16)
    output[list(spoken)] = random(len(spoken), HIDDEN, OUTPUT_SCALE)
    tensors = {
        "model.embed_tokens.weight": random(vocabulary_size, HIDDEN, 1.0),
        "model.norm.weight": ones(),
        "lm_head.weight": output,
    }
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        tensors |= {
            f"{name}.input_layernorm.weight": ones(),
            f"{name}.post_attention_layernorm.weight": ones(),
            f"{name}.self_attn.q_proj.weight": random(HEADS * HEAD_DIM, HIDDEN),
            f"{name}.self_attn.k_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{name}.self_attn.v_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{name}.self_attn.o_proj.weight": random(HIDDEN, HEADS * HEAD_DIM),
            f"{name}.mlp.gate_proj.weight": random(INTERMEDIATE, HIDDEN),
            f"{name}.mlp.up_proj.weight": random(INTERMEDIATE, HIDDEN),
            f"{name}.mlp.down_proj.weight": random(HIDDEN, INTERMEDIATE),
        }
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})


def write_config(out: Path, *, vocabulary_size: int) -> None:
    """Writes config.json and generation_config.json."""
    ends = {"bos_token_id": SPECIAL_TOKENS.index(BOS), "eos_token_id": SPECIAL_TOKENS.index(EOS)}
    write_json(
        out / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocabulary_size,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "max_position_embeddings": CONTEXT_TOKENS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "pad_token_id": SPECIAL_TOKENS.index(PAD),
            **ends,
        },
    )
    write_json(out / "generation_config.json", ends)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes one JSON file."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def make_tiny_model(out: Path) -> None:
    """Makes the model in `out`, which is made if missing. config.json comes last: its presence means complete."""
    out.mkdir(parents=True, exist_ok=True)
    vocabulary_size, spoken = write_tokenizer(out)
    write_weights(out, vocabulary_size=vocabulary_size, spoken=spoken)
    write_config(out, vocabulary_size=vocabulary_size)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 when the model is there."""
    parser = argparse.ArgumentParser(prog="crosslogic_dev.engine.tiny_model", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    out = parser.parse_args(argv).out
    if (out / "config.json").exists():
        print(f"tiny model: already in {out}")
        return 0
    make_tiny_model(out)
    print(f"tiny model: made in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
