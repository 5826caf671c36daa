"""The header of a safetensors file: which tensors it holds.

The format: 8 bytes, little-endian, say how long the JSON is that follows; then the tensors' bytes, one after the other
without a gap. Nothing in it can be executed, which is why weights in no other format are uploaded.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from crosslogic_model_store.errors import ModelStoreError

MAX_HEADER_BYTES: Final = 100_000_000
_LENGTH_BYTES: Final = 8
_BITS: Final[Mapping[str, int]] = MappingProxyType(
    dict.fromkeys(("F64", "I64", "U64", "C64"), 64)
    | dict.fromkeys(("F32", "I32", "U32"), 32)
    | dict.fromkeys(("F16", "BF16", "I16", "U16"), 16)
    | dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6)
    | {"F4": 4}
)
"""Of one element. A dtype that is not here is newer than this: its tensors' lengths are not checked."""
_SCALES: Final = (
    *("qzeros", "scales", "g_idx", "_scale", "_scale_inv", "_scale_2", "_scales", "_zero_point", "_shape"),
    *(".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"),
)
_PACKED: Final = ("qweight", "weight_packed")
"""Ends of the names of tensors that are no weights, and of those that are several in one."""


@dataclass(frozen=True, slots=True)
class TensorTotals:
    """What the tensors of a model come to."""

    elements: int = 0
    """Weights: packed ones by their number, and nothing that only says how quantised ones are to be read."""
    size_bytes: int = 0
    bytes_by_dtype: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file."""

    name: str
    dtype: str
    elements: int
    begin: int
    """In bytes, from where the tensors begin."""
    end: int


def read_totals(files: Iterable[Path], *, packed_bits: int = 0) -> TensorTotals:
    """Sums over all files; weights that are packed are of `packed_bits` bits each (0: none are packed).

    Raises ModelStoreError for what is no whole safetensors file, and for no tensors at all.
    """
    elements, by_dtype = 0, dict[str, int]()
    for file in files:
        for tensor in read_tensors(file):
            elements += _weights(tensor, packed_bits)
            by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.end - tensor.begin
    if not elements:
        raise ModelStoreError("The safetensors hold no weights at all.")
    return TensorTotals(elements, sum(by_dtype.values()), by_dtype)


def read_tensors(file: Path) -> list[Tensor]:
    """The tensors of one file, in the order in which they lie there. Raises ModelStoreError.

    An engine finds out only on the machine that was launched for it: so a file is looked at as strictly as it would.
    """
    header, body_bytes = _header(file)
    tensors = sorted(
        (_tensor(file, name, said) for name, said in header.items() if name != "__metadata__"),
        key=lambda tensor: (tensor.begin, tensor.end),
    )
    end = 0
    for tensor in tensors:
        if tensor.end > body_bytes:
            raise _not_whole(file, f"the tensor {tensor.name!r:.80} lies beyond its end")
        if tensor.begin != end:
            beside = "overlaps the one before" if tensor.begin < end else "leaves a gap before it"
            raise _not_whole(file, f"the tensor {tensor.name!r:.80} {beside}")
        end = tensor.end
    if end != body_bytes:
        raise _not_whole(file, f"it has {body_bytes} bytes of tensors and describes {end}")
    return tensors


def _weights(tensor: Tensor, packed_bits: int) -> int:
    if tensor.name.endswith(_SCALES):
        return 0
    packed = packed_bits and (tensor.name.endswith(_PACKED) or tensor.dtype == "U8")
    return tensor.elements * (_BITS.get(tensor.dtype, 0) // packed_bits or 1) if packed else tensor.elements


def _tensor(file: Path, name: str, said: Any) -> Tensor:
    wrong = _not_whole(file, f"the tensor {name!r:.80} is not described")
    try:
        dtype, shape, (begin, end) = said["dtype"], said["shape"], said["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise wrong from None
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if not isinstance(dtype, str) or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        raise wrong
    elements, bits = math.prod(shape), _BITS.get(dtype)
    if begin > end or (bits and elements * bits != (end - begin) * 8):
        raise _not_whole(file, f"the tensor {name!r:.80} is not as long as its shape")
    return Tensor(name, dtype, elements, begin, end)


def _header(file: Path) -> tuple[Mapping[str, Any], int]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise _not_whole(file, "its header is longer than it is")
        try:
            header = json.loads(opened.read(length))
        except (ValueError, RecursionError):
            raise _not_whole(file, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _not_whole(file, "its header is not an object")
    return header, size - _LENGTH_BYTES - length


def _not_whole(file: Path, reason: str) -> ModelStoreError:
    return ModelStoreError(f"{file.name} is no whole safetensors file: {reason}.")
