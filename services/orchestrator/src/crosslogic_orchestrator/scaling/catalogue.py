"""Price catalogues in the format of SkyPilot's: `<folder>/<cloud>/vms.csv`, or `<folder>/<cloud>.csv`.

A file is what somebody else made: rows that make no sense are left out, and a file that does not is an error.
"""

import ast
import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from crosslogic_common.regions import RegionTable
from crosslogic_orchestrator.scaling.placement import Kind

MAX_ROWS = 500_000
MAX_FIELD = 4_096
_MOST_DOLLARS = 1e6
_MOST_MIB = 1e9
_NEEDED = {"InstanceType", "Region", "Price", "SpotPrice"}


class CatalogueError(ValueError):
    """A catalogue that cannot be used; says what to change."""


def read_catalogue(folder: Path, regions: RegionTable) -> tuple[Kind, ...]:
    """Every kind of machine of every cloud, its zones put together at the lowest price. Raises CatalogueError."""
    kinds: dict[tuple[str, str, str, str], Kind] = {}
    for cloud, file in _files(folder):
        for kind in _rows(cloud, file, regions):
            key = (kind.provider, kind.region, kind.instance_type, kind.gpu)
            known = kinds.get(key)
            kinds[key] = kind if known is None else _cheaper(known, kind)
            if len(kinds) > MAX_ROWS:
                raise CatalogueError(f"{folder} has more than {MAX_ROWS:,} kinds of machines")
    return tuple(kinds.values())


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    if not folder.is_dir():
        raise CatalogueError(f"{folder} is no folder")
    for file in sorted(folder.iterdir()):
        if file.suffix == ".csv":
            yield file.stem, file
        elif (file / "vms.csv").is_file():
            yield file.name, file / "vms.csv"


def _rows(cloud: str, file: Path, regions: RegionTable) -> Iterator[Kind]:
    try:
        with file.open(encoding="utf-8", newline="") as text:
            reader = csv.DictReader(text)
            missing = _NEEDED - set(reader.fieldnames or ())
            if missing:
                raise CatalogueError(f"{file} has no column {', '.join(sorted(missing))}")
            for row in reader:
                kind = _kind(cloud, row, regions)
                if kind is not None:
                    yield kind
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CatalogueError(f"{file} cannot be read: {error}") from None


def _kind(cloud: str, row: Mapping[str, str | None], regions: RegionTable) -> Kind | None:
    instance_type, region = row.get("InstanceType") or "", row.get("Region") or ""
    on_demand, spot = _price(row.get("Price")), _price(row.get("SpotPrice"))
    if not instance_type or not region or (on_demand is None and spot is None):
        return None
    count = _number(row.get("AcceleratorCount")) or 0.0
    return Kind(
        provider=cloud,
        region=regions.code(region),
        instance_type=instance_type,
        gpu=row.get("AcceleratorName") or "",
        gpu_count=count,
        vram_bytes=_vram_bytes(row.get("GpuInfo") or ""),
        on_demand_picodollars=on_demand,
        spot_picodollars=spot,
    )


def _price(text: str | None) -> int | None:
    dollars = _number(text)
    return None if dollars is None or dollars <= 0 else round(dollars * 1e12)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value < _MOST_DOLLARS else None


def _vram_bytes(info: str) -> int:
    """From a column that holds a Python literal: `{'Gpus': [...], 'TotalGpuMemoryInMiB': 16384}`."""
    if not info or len(info) > MAX_FIELD:
        return 0
    try:
        found = ast.literal_eval(info)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return 0
    size = found.get("TotalGpuMemoryInMiB") if isinstance(found, dict) else None
    return int(size) * 2**20 if isinstance(size, int | float) and 0 < size < _MOST_MIB else 0


def _cheaper(one: Kind, other: Kind) -> Kind:
    return Kind(
        provider=one.provider,
        region=one.region,
        instance_type=one.instance_type,
        gpu=one.gpu,
        gpu_count=max(one.gpu_count, other.gpu_count),
        vram_bytes=max(one.vram_bytes, other.vram_bytes),
        on_demand_picodollars=_least(one.on_demand_picodollars, other.on_demand_picodollars),
        spot_picodollars=_least(one.spot_picodollars, other.spot_picodollars),
    )


def _least(one: int | None, other: int | None) -> int | None:
    return min((price for price in (one, other) if price is not None), default=None)
