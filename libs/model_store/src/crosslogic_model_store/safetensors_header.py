"""The header of a safetensors file: which tensors it holds.

The format: 8 bytes, little-endian, say how long the JSON is that follows; then the tensors' bytes. Nothing in it can be
executed, which is why weights in no other format are uploaded.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crosslogic_model_store.errors import ModelStoreError

MAX_HEADER_BYTES: Final = 100_000_000
_LENGTH_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class TensorTotals:
    """What the tensors of a model come to."""

    elements: int = 0
    size_bytes: int = 0
    bytes_by_dtype: Mapping[str, int] = field(default_factory=dict)


def read_totals(files: Iterable[Path]) -> TensorTotals:
    """Sums over all files. Raises ModelStoreError for what is no whole safetensors file."""
    elements, by_dtype = 0, dict[str, int]()
    for file in files:
        for dtype, shape, size_bytes in _tensors(file):
            elements += math.prod(shape)
            by_dtype[dtype] = by_dtype.get(dtype, 0) + size_bytes
    return TensorTotals(elements, sum(by_dtype.values()), by_dtype)


def _tensors(file: Path) -> Iterable[tuple[str, list[int], int]]:
    header, body_bytes = _header(file)
    end = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (begin, stop) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise _not_whole(file, f"the tensor {name!r:.80} is not described") from None
        numbers = [*shape, begin, stop] if isinstance(shape, list) else [None]
        if not isinstance(dtype, str) or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
            raise _not_whole(file, f"the tensor {name!r:.80} is not described")
        if not begin <= stop <= body_bytes:
            raise _not_whole(file, f"the tensor {name!r:.80} lies beyond its end")
        end = max(end, stop)
        yield dtype, shape, stop - begin
    if end != body_bytes:
        raise _not_whole(file, f"it has {body_bytes} bytes of tensors and describes {end}")


def _header(file: Path) -> tuple[Mapping[str, Any], int]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise _not_whole(file, "its header is longer than it is")
        try:
            header = json.loads(opened.read(length))
        except ValueError:
            raise _not_whole(file, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _not_whole(file, "its header is not an object")
    return header, size - _LENGTH_BYTES - length


def _not_whole(file: Path, reason: str) -> ModelStoreError:
    return ModelStoreError(f"{file.name} is no whole safetensors file: {reason}.")
