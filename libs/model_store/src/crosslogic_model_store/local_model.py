"""A model's folder on this machine, before it is uploaded."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.facts import ModelFacts, facts_of
from crosslogic_model_store.manifest import MAX_FILES, FileEntry, Manifest, check_name, revision_of
from crosslogic_model_store.quantization import quantization_of
from crosslogic_model_store.safetensors_header import read_tensors, read_totals
from crosslogic_model_store.selection import WEIGHTS_SUFFIX, is_wanted, without_second_layout
from crosslogic_model_store.tree_digest import PART_BYTES, FileDigest

_READ_BYTES: Final = 4 * 2**20
_MAX_JSON_BYTES: Final = 200 * 2**20
_MAX_SEEN: Final = 100_000
"""Entries of a folder that are looked at before it is taken for something else than a model's."""
_LICENCE = re.compile(r"^license:\s*[\"']?([A-Za-z0-9][A-Za-z0-9._+ -]{0,99})[\"']?\s*$", re.MULTILINE)

OnBytes = Callable[[int], None]
Identity = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A folder that was looked through and hashed."""

    folder: Path
    manifest: Manifest
    left_out: tuple[str, ...]
    """Files that are no part of a model: code, pickles, pictures."""
    identities: Mapping[str, Identity]
    """What each file was before it was hashed, by its path: one that is another by now was not."""


def find_files(folder: Path) -> tuple[list[str], list[str]]:
    """Paths below `folder`: those that belong to the model, and those that stay behind. Raises ModelStoreError."""
    if not folder.is_dir():
        raise ModelStoreError(f"{folder} is no folder.")
    paths = sorted(
        path.relative_to(folder).as_posix()
        for path in _entries(folder)
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    wanted = without_second_layout(path for path in paths if is_wanted(path))
    if len(wanted) > MAX_FILES:
        raise ModelStoreError(f"{folder} has more than {MAX_FILES} files of a model.")
    _check_links(folder, wanted)
    _check_complete(folder, wanted)
    return wanted, [path for path in paths if path not in set(wanted)]


def describe(folder: Path, wanted: Sequence[str], *, licence: str = "") -> ModelFacts:
    """What the model is. Raises ModelStoreError."""
    config = _with_quantization(folder, wanted, _json(folder / "config.json"))
    weights = read_totals(
        (folder / path for path in wanted if path.endswith(WEIGHTS_SUFFIX)), packed_bits=quantization_of(config).bits
    )
    tokenizer = _json(folder / "tokenizer_config.json") if "tokenizer_config.json" in wanted else {}
    template = bool(tokenizer.get("chat_template")) or any(path.startswith("chat_template.") for path in wanted)
    return facts_of(config, weights, licence=licence or _licence(folder), chat_template=template)


def read_model(
    folder: Path,
    name: str,
    *,
    source: str = "",
    licence: str = "",
    workers: int = 4,
    part_bytes: int = PART_BYTES,
    on_bytes: OnBytes = lambda _bytes: None,
) -> LocalModel:
    """Looks a folder through and hashes it; `on_bytes` is told from several threads. Raises ModelStoreError.

    Nodes fetch the files in parts of `part_bytes` (4,096 to 2^30), which is part of the revision.
    """
    check_name(name)
    wanted, left_out = find_files(folder)
    facts = describe(folder, wanted, licence=licence)
    identities = {path: identity_of(folder / path) for path in wanted}
    with ThreadPoolExecutor(workers) as pool:
        entries = tuple(pool.map(lambda path: _entry(folder, path, part_bytes, on_bytes), wanted))
    manifest = Manifest(
        model=name,
        revision=revision_of(entries, part_bytes),
        files=entries,
        facts=facts,
        part_bytes=part_bytes,
        source=source or folder.resolve().name,
    )
    return LocalModel(folder, manifest, tuple(left_out), identities)


def identity_of(file: Path) -> Identity:
    """Changes when somebody writes to the file or puts another in its place."""
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _entry(folder: Path, path: str, part_bytes: int, on_bytes: OnBytes) -> FileEntry:
    file = folder / path
    size_bytes = file.stat().st_size
    digest, tree, buffer = hashlib.sha256(), FileDigest(part_bytes), memoryview(bytearray(_READ_BYTES))
    with file.open("rb", buffering=0) as opened:
        while count := opened.readinto(buffer):
            digest.update(buffer[:count])
            tree.update(buffer[:count])
            on_bytes(count)
    return FileEntry(path, size_bytes, digest.hexdigest(), tree.hexdigest())


def _with_quantization(folder: Path, wanted: Sequence[str], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with what older tools wrote beside it."""
    if isinstance(config.get("quantization_config"), Mapping):
        return config
    if "quantize_config.json" in wanted:
        said = _json(folder / "quantize_config.json")
        return {**config, "quantization_config": {"quant_method": "gptq", **said}}
    if "hf_quant_config.json" in wanted:
        inner = _json(folder / "hf_quant_config.json").get("quantization")
        told = inner if isinstance(inner, Mapping) else {}
        return {**config, "quantization_config": {"quant_method": "modelopt", **told}}
    return config


def _check_complete(folder: Path, wanted: Sequence[str]) -> None:
    if "config.json" not in wanted:
        raise ModelStoreError(f"{folder} has no config.json: it is no model's folder.")
    if not any(path.endswith(WEIGHTS_SUFFIX) for path in wanted):
        raise ModelStoreError(f"{folder} has no safetensors. Pickled weights are not taken: convert them first.")
    for path in wanted:
        if path.endswith(".json") and not path.endswith(".index.json"):
            _json(folder / path)
    for index in (path for path in wanted if path.endswith(".safetensors.index.json")):
        _check_index(folder, index, wanted)


def _check_index(folder: Path, index: str, wanted: Sequence[str]) -> None:
    """Every tensor that an index names must be where it says. Raises ModelStoreError."""
    shards = _json(folder / index).get("weight_map")
    if not isinstance(shards, Mapping) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ModelStoreError(f"{index} does not say which weights are where.")
    named: dict[str, set[str]] = {}
    for tensor, shard in shards.items():
        named.setdefault((PurePosixPath(index).parent / shard).as_posix(), set()).add(tensor)
    missing = sorted(named.keys() - set(wanted))
    if missing:
        raise ModelStoreError(f"{index} names files that are not there: {', '.join(missing[:3])}.")
    for shard, tensors in named.items():
        absent = tensors - {tensor.name for tensor in read_tensors(folder / shard)}
        if absent:
            raise ModelStoreError(f"{shard} lacks what {index} says is in it: {min(absent)!r:.80}.")


def _check_links(folder: Path, wanted: Sequence[str]) -> None:
    """A link must not make a file of this machine a part of the model. Raises ModelStoreError."""
    allowed = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        # A hub's cache: what a snapshot has are links to the files beside it.
        allowed.append(folder.resolve().parent.parent / "blobs")
    for path in wanted:
        target = (folder / path).resolve()
        if not any(target.is_relative_to(each) for each in allowed):
            raise ModelStoreError(f"{path} is a link that leads out of {folder}: copy the file there if it is wanted.")


def _entries(folder: Path) -> Iterator[Path]:
    for seen, path in enumerate(folder.rglob("*")):
        if seen == _MAX_SEEN:
            raise ModelStoreError(f"{folder} has more than {_MAX_SEEN:,} files: it is no model's folder.")
        yield path


def _json(file: Path) -> Mapping[str, Any]:
    if file.stat().st_size > _MAX_JSON_BYTES:
        raise ModelStoreError(f"{file.name} is too long to be read.")
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise ModelStoreError(f"{file.name} is not JSON.") from None
    return found if isinstance(found, dict) else {}


def _licence(folder: Path) -> str:
    """What the model's card says at its head."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    with card.open(errors="replace") as opened:
        head = opened.read(20_000)
    if not head.startswith("---"):
        return ""
    found = _LICENCE.search(head.split("\n---", 1)[0])
    return found.group(1).strip() if found else ""
