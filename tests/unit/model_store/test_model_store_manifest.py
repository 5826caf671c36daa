"""What is taken from a folder, what is left, and what a manifest may say."""

import dataclasses
import json
from pathlib import Path

import pytest

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.local_model import read_model
from crosslogic_model_store.manifest import FileEntry, folder_name, parse_manifest, revision_of
from crosslogic_model_store.tree_digest import FileDigest, PartDigest, tree_digest
from tests.fakes.small_models import make_model, write_safetensors

# As manifests were written before files had a checksum of their parts.
_OLDER = (
    b'{"facts":{"dtype":"bfloat16","parameters":8},"files":['
    b'{"path":"config.json","sha256":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","size_bytes":4},'
    b'{"path":"model.safetensors","sha256":"60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",'
    b'"size_bytes":5}],"format":1,"model":"team/old","revision":"cd8239750d72054982e4d62bcf01396a","source":"old"}'
)


def test_only_what_cannot_run_code_is_taken(tmp_path: Path) -> None:
    local = read_model(make_model(tmp_path / "m"), "tiny")
    assert {file.path for file in local.manifest.files} == {
        "config.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert set(local.left_out) == {"README.md", "modeling_evil.py", "pytorch_model.bin"}


def test_a_model_tells_what_it_is(tmp_path: Path) -> None:
    facts = read_model(make_model(tmp_path / "m", weights_bytes=8192), "tiny").manifest.facts
    assert (facts.dtype, facts.parameters, facts.weights_bytes) == ("bfloat16", 4096, 8192)
    assert (facts.context_length, facts.licence, facts.chat_template) == (2048, "apache-2.0", True)
    assert (facts.layers, facts.kv_heads, facts.head_size) == (2, 2, 16)


def test_the_same_files_are_the_same_version_and_any_change_is_another(tmp_path: Path) -> None:
    first = read_model(make_model(tmp_path / "a"), "tiny").manifest
    again = read_model(make_model(tmp_path / "b"), "tiny", source="elsewhere").manifest
    other = read_model(make_model(tmp_path / "c", seed=2), "tiny").manifest
    assert first.revision == again.revision != other.revision


@pytest.mark.parametrize("cut", [1, 100])
def test_half_a_weights_file_is_not_uploaded(tmp_path: Path, cut: int) -> None:
    folder = make_model(tmp_path / "m")
    file = folder / "model-00001-of-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(ModelStoreError, match="no whole safetensors"):
        read_model(folder, "tiny")


def test_a_model_that_lacks_a_shard_is_not_uploaded(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelStoreError, match=r"not there: model-00002-of-00002\.safetensors"):
        read_model(folder, "tiny")


def test_pickled_weights_alone_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(ModelStoreError, match="Pickled weights are not taken"):
        read_model(folder, "tiny")


def test_a_header_that_lies_about_its_length_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "model-00001-of-00001.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelStoreError, match="longer than it is"):
        read_model(folder, "tiny")


def test_tensors_beyond_the_end_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    file = folder / "model-00001-of-00001.safetensors"
    write_safetensors(file, {"w": ("BF16", [8], 16)})
    text = file.read_bytes().replace(b"[0, 16]", b"[9, 25]")
    file.write_bytes(text)
    with pytest.raises(ModelStoreError, match="beyond its end"):
        read_model(folder, "tiny")


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = read_model(make_model(tmp_path / "m"), "team/tiny@staging").manifest
    assert parse_manifest(manifest.to_json()) == manifest
    assert folder_name(manifest.model, manifest.revision).startswith("team%2Ftiny%40staging@")


def test_versions_that_were_stored_before_files_had_parts_still_load() -> None:
    found = parse_manifest(_OLDER)
    assert (found.revision, found.part_bytes, found.files[0].tree) == ("cd8239750d72054982e4d62bcf01396a", 0, "")
    assert parse_manifest(found.to_json()) == found


@pytest.mark.parametrize("tree", ["0" * 64, "", None, "x" * 64])
def test_nobody_changes_what_a_versions_parts_are_checked_by(tmp_path: Path, tree: str | None) -> None:
    said = json.loads(read_model(make_model(tmp_path / "m"), "tiny").manifest.to_json())
    said["files"][0]["tree"] = tree
    with pytest.raises(ModelStoreError):
        parse_manifest(json.dumps(said).encode())


@pytest.mark.parametrize(("size", "pieces"), [(0, 1), (1, 1), (4096, 4096), (4097, 100), (12288, 5000), (20000, 20000)])
def test_a_file_has_the_checksum_of_its_parts_however_it_is_read(size: int, pieces: int) -> None:
    content = memoryview(bytes(index % 251 for index in range(size)))
    whole = FileDigest(4096)
    for start in range(0, size, pieces):
        whole.update(content[start : start + pieces])
    parts = []
    for start in range(0, size, 4096):
        part = PartDigest()
        part.update(content[start : start + 4096])
        parts.append(part.digest())
    assert whole.hexdigest() == tree_digest(parts)


@pytest.mark.parametrize(
    "path",
    ["../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "run.py", "x.bin", "", "a\\b.safetensors"],
)
def test_a_manifest_cannot_make_a_node_write_elsewhere_or_fetch_code(tmp_path: Path, path: str) -> None:
    manifest = read_model(make_model(tmp_path / "m"), "tiny").manifest
    files = (FileEntry(path, 1, "0" * 64, "0" * 64),)
    forged = dataclasses.replace(manifest, files=files, revision=revision_of(files, manifest.part_bytes))
    with pytest.raises(ModelStoreError, match="no model has"):
        parse_manifest(forged.to_json())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("revision", "0" * 32),
        ("format", 1),
        ("format", 3),
        ("part_bytes", 0),
        ("part_bytes", 2**40),
        ("part_bytes", True),
        ("part_bytes", "16777216"),
        ("part_bytes", 2**23),
        ("model", "../other"),
        ("files", []),
        ("files", "abc"),
        ("facts", {"parameters": -1}),
        ("facts", {"layers": True}),
        ("facts", {"licence": "x" * 500}),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path: Path, field: str, value: object) -> None:
    said = json.loads(read_model(make_model(tmp_path / "m"), "tiny").manifest.to_json())
    said[field] = value
    with pytest.raises(ModelStoreError):
        parse_manifest(json.dumps(said).encode())
