"""What a version of a model is made of. Its name, the revision, follows from the content of its files alone. Pure."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final
from urllib.parse import quote

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.facts import ModelFacts
from crosslogic_model_store.selection import is_wanted
from crosslogic_model_store.tree_digest import LEAST_PART_BYTES, MOST_PART_BYTES

MAX_FILES: Final = 2_000
MAX_MANIFEST_BYTES: Final = 2_000_000
MAX_FILE_BYTES: Final = 2**43
_MAX_PARTS: Final = 1_000_000
_WITHOUT_PARTS, _FORMAT = 1, 2
"""Of manifests: as they were before files had a checksum of their parts, and as they are."""
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_REVISION = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@:+-]{0,199}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a version."""

    path: str
    """Relative, with `/`."""
    size_bytes: int
    sha256: str
    """Lower-case hex. Also names the object, so that versions share the files that they have in common."""
    tree: str = ""
    """The checksum of its parts (`tree_digest`), lower-case hex. Empty: the manifest is older than these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A version of a model. Written after all its objects: a model without one is not there."""

    model: str
    revision: str
    """32 hex digits: what nodes and the registry call the model's version."""
    files: tuple[FileEntry, ...]
    facts: ModelFacts
    part_bytes: int = 0
    """How long the parts are that files' trees are of. 0: the manifest has no trees."""
    source: str = ""
    """Where it was taken from, for people: a hub id with its commit, or a directory's name."""

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)

    @property
    def objects(self) -> Mapping[str, str]:
        """The key of each object by its file's SHA-256."""
        return {file.sha256: blob_key(self.model, file.sha256) for file in self.files}

    def to_json(self) -> bytes:
        """As it is stored."""
        written = _FORMAT if self.part_bytes else _WITHOUT_PARTS
        return json.dumps({"format": written, **asdict(self)}, sort_keys=True, separators=(",", ":")).encode()


def revision_of(files: Iterable[FileEntry], part_bytes: int = 0) -> str:
    """The version's name: the same files have the same, whoever uploads them, whenever.

    It vouches for all that a node checks files by. `part_bytes` 0: an older manifest, of which that is SHA-256 alone.
    """
    if part_bytes:
        lines = [f"parts of {part_bytes}\n"]
        lines += sorted(f"{file.tree} {file.sha256} {file.size_bytes} {file.path}\n" for file in files)
    else:
        lines = sorted(f"{file.sha256} {file.size_bytes} {file.path}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def parse_manifest(text: bytes) -> Manifest:
    """Reads a manifest that may come from anybody. Raises ModelStoreError.

    What it says of itself is not believed: the revision is computed again, paths lead nowhere but below the version's
    own folder, and every file is of a kind that would have been uploaded.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise ModelStoreError(f"A manifest has at most {MAX_MANIFEST_BYTES} bytes.")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelStoreError("The manifest is not JSON.") from None
    if not isinstance(said, dict) or said.get("format") not in (_WITHOUT_PARTS, _FORMAT):
        raise ModelStoreError("The manifest is of a format that is not known here.")
    part_bytes = _part_bytes(said.get("part_bytes")) if said["format"] == _FORMAT else 0
    files = _files(said.get("files"), part_bytes)
    model, source = said.get("model"), said.get("source", "")
    if not isinstance(model, str) or not isinstance(source, str):
        raise ModelStoreError("The manifest names no model.")
    check_name(model)
    if said.get("revision") != revision_of(files, part_bytes):
        raise ModelStoreError("The manifest's revision is not that of its files.")
    facts = _facts(said.get("facts"))
    return Manifest(
        model=model,
        revision=said["revision"],
        files=files,
        facts=facts,
        part_bytes=part_bytes,
        source=source[:500],
    )


def check_name(model: str) -> str:
    """A name that a model may have in the store. Raises ModelStoreError."""
    if not _NAME.fullmatch(model) or ".." in model:
        raise ModelStoreError("A model's name has 1 to 200 of letters, digits and `._/@:+-`, and begins with a letter.")
    return model


def check_revision(revision: str) -> str:
    """A revision. Raises ModelStoreError."""
    if not _REVISION.fullmatch(revision):
        raise ModelStoreError("A revision has 32 of 0-9 and a-f.")
    return revision


def blob_key(model: str, sha256: str) -> str:
    """The object that holds a file."""
    return f"{_prefix(model)}/blobs/{sha256}"


def manifest_key(model: str, revision: str) -> str:
    """The object that holds a manifest."""
    return f"{_prefix(model)}/manifests/{check_revision(revision)}.json"


def manifests_prefix(model: str) -> str:
    """What the keys of a model's manifests begin with."""
    return f"{_prefix(model)}/manifests/"


def model_prefix(model: str) -> str:
    """What the keys of all objects of a model begin with; `model` empty: of all models."""
    return f"{_prefix(model)}/" if model else "models/"


def folder_name(model: str, revision: str) -> str:
    """What a node calls the folder of a version."""
    return f"{quote(check_name(model), safe='')}@{check_revision(revision)}"


def _prefix(model: str) -> str:
    return f"models/{quote(check_name(model), safe='')}"


def _part_bytes(said: object) -> int:
    if isinstance(said, bool) or not isinstance(said, int) or not LEAST_PART_BYTES <= said <= MOST_PART_BYTES:
        raise ModelStoreError("The manifest's parts are of a length that cannot be.")
    return said


def _files(said: object, part_bytes: int) -> tuple[FileEntry, ...]:
    if not isinstance(said, Sequence) or isinstance(said, str) or not 1 <= len(said) <= MAX_FILES:
        raise ModelStoreError(f"A manifest names 1 to {MAX_FILES} files.")
    found = tuple(_file(each, with_tree=bool(part_bytes)) for each in said)
    if len({file.path for file in found}) < len(found):
        raise ModelStoreError("The manifest names a file twice.")
    if part_bytes and sum(file.size_bytes // part_bytes for file in found) > _MAX_PARTS:
        raise ModelStoreError(f"A manifest's files have at most {_MAX_PARTS:,} parts.")
    return found


def _file(said: object, *, with_tree: bool) -> FileEntry:
    if not isinstance(said, Mapping):
        raise ModelStoreError("The manifest describes a file that is none.")
    path, size, sha256 = said.get("path"), said.get("size_bytes"), said.get("sha256")
    if not isinstance(path, str) or not is_wanted(path):
        raise ModelStoreError(f"The manifest names a file that no model has: {path!r:.100}.")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_FILE_BYTES:
        raise ModelStoreError(f"The manifest gives {path} a size that cannot be.")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ModelStoreError(f"The manifest gives {path} no SHA-256.")
    tree = said.get("tree") if with_tree else ""
    if with_tree and (not isinstance(tree, str) or not _SHA256.fullmatch(tree)):
        raise ModelStoreError(f"The manifest gives {path} no checksum of its parts.")
    return FileEntry(path, size, sha256, str(tree))


def _facts(said: object) -> ModelFacts:
    if not isinstance(said, Mapping):
        raise ModelStoreError("The manifest tells nothing of the model.")
    values: dict[str, Any] = {}
    for each in fields(ModelFacts):
        value = said.get(each.name, each.default)
        if type(value) is not type(each.default) or (isinstance(value, int) and not 0 <= value < 2**63):
            raise ModelStoreError(f"The manifest's `facts.{each.name}` is not what it should be.")
        if isinstance(value, str) and (len(value) > 200 or (value and not value.isprintable())):  # noqa: PLR2004  # for tables
            raise ModelStoreError(f"The manifest's `facts.{each.name}` is too long.")
        values[each.name] = value
    return ModelFacts(**values)
