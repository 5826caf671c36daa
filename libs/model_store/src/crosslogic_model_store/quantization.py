"""How a model's weights are quantised, as far as memory, counting and splitting are concerned. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MAX_UNIT = 2**20


@dataclass(frozen=True, slots=True)
class Quantization:
    """What a configuration says."""

    method: str = ""
    """For example `awq`. Empty: none."""
    bits: int = 0
    """Of a packed weight. 0: not told, or not packed."""
    unit: int = 0
    """Weights share a scale in groups or blocks of so many: accelerators must be given whole ones. 0: any number."""


def quantization_of(config: Mapping[str, Any]) -> Quantization:
    """From config.json; of the layouts of AWQ, GPTQ, fp8 by blocks, compressed-tensors, ModelOpt and bitsandbytes."""
    said = config.get("quantization_config")
    if not isinstance(said, Mapping):
        return Quantization()
    method = said.get("quant_method")
    groups = said.get("config_groups")
    weights = [
        group["weights"]
        for group in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping)
    ]
    blocks = said.get("weight_block_size")
    sizes = [said.get("group_size"), *(each.get("group_size") for each in weights)]
    sizes += blocks if isinstance(blocks, list) else []
    bits = [said.get("bits"), *(each.get("num_bits") for each in weights)]
    if said.get("load_in_4bit") is True or "FP4" in f"{method} {said.get('quant_algo')}".upper():
        bits = [4]
    return Quantization(
        method=method[:200] if isinstance(method, str) and method.isprintable() else "",
        bits=max((found for found in bits if _is_number(found) and found <= 8), default=0),  # noqa: PLR2004  # of a byte
        unit=max((found for found in sizes if _is_number(found)), default=0),
    )


def _is_number(value: Any) -> bool:
    # -1 is what some say for a scale of a whole row.
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_UNIT
