"""A folder that somebody else made: what it cannot do to this machine, to the bucket, or to the nodes."""

import json
from pathlib import Path

import pytest

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.local_model import find_files, read_model
from crosslogic_model_store.manifest import parse_manifest
from tests.fakes.small_models import make_model

SHARD = "model-00001-of-00001.safetensors"


def header_of(file: Path, header: object, body_bytes: int) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(body_bytes))


def tensor(begin: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "body_bytes", "words"),
    [
        ({"w0": tensor(0, 8), "b": tensor(4, 12)}, 12, "overlaps"),
        ({"w0": tensor(0, 8), "b": tensor(10, 12)}, 12, "leaves a gap"),
        ({"w0": tensor(0, 8)}, 12, "describes 8"),
        ({"w0": tensor(0, 8, [2**40])}, 8, "not as long as its shape"),
        ({"w0": tensor(0, 8, [8], "BF16")}, 8, "not as long as its shape"),
        ({"w0": tensor(8, 0, [8])}, 8, "not as long as its shape"),
        ({"w0": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, 1, "not described"),
        ({"w0": 7}, 0, "not described"),
        ([], 0, "not an object"),
        (b"[" * 100_000, 0, "not JSON"),
    ],
)
def test_weights_that_an_engine_would_refuse_are_not_uploaded(
    tmp_path: Path, header: object, body_bytes: int, words: str
) -> None:
    folder = make_model(tmp_path / "m")
    header_of(folder / SHARD, header, body_bytes)
    with pytest.raises(ModelStoreError, match=words):
        read_model(folder, "tiny")


def test_safetensors_without_a_tensor_are_no_model(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "model.safetensors.index.json").unlink()
    header_of(folder / SHARD, {"__metadata__": {"format": "pt"}}, 0)
    with pytest.raises(ModelStoreError, match="no weights at all"):
        read_model(folder, "tiny")
    (folder / SHARD).write_bytes(b"")
    with pytest.raises(ModelStoreError, match="no whole safetensors"):
        read_model(folder, "tiny")


def test_packed_four_bit_weights_are_taken(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    header_of(folder / SHARD, {"w0": tensor(0, 4, [8], "F4"), "new": tensor(4, 6, [5], "X9")}, 6)
    assert read_model(folder, "tiny").manifest.facts.parameters == 13


def test_a_shard_of_another_model_in_place_of_the_right_one_is_found_before_it_is_uploaded(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", shards=2)
    (folder / "model-00002-of-00002.safetensors").write_bytes(
        (folder / "model-00001-of-00002.safetensors").read_bytes()
    )
    with pytest.raises(ModelStoreError, match=r"model-00002-of-00002\.safetensors lacks"):
        read_model(folder, "tiny")


@pytest.mark.parametrize(
    "weight_map",
    [{"w0": ["a"]}, {"w0": None}, [], None, {"w0": "../other/model.safetensors"}, {"w0": "/etc/passwd"}, {"w0": ""}],
)
def test_an_index_that_makes_no_sense_or_leads_elsewhere_is_told_in_words(tmp_path: Path, weight_map: object) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelStoreError, match=r"model\.safetensors\.index\.json"):
        read_model(folder, "tiny")


def test_a_link_does_not_bring_a_file_of_this_machine_into_the_bucket(tmp_path: Path) -> None:
    (tmp_path / "id_key").write_text("a secret")
    folder = make_model(tmp_path / "m")
    (folder / "merges.txt").symlink_to(tmp_path / "id_key")
    with pytest.raises(ModelStoreError, match=r"merges\.txt is a link that leads out"):
        read_model(folder, "tiny")


def test_a_hubs_own_cache_on_this_machine_can_be_uploaded(tmp_path: Path) -> None:
    made = make_model(tmp_path / "made")
    snapshot = tmp_path / "models--team--tiny" / "snapshots" / "0123"
    blobs = tmp_path / "models--team--tiny" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(made.iterdir()):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert read_model(snapshot, "tiny").manifest.files == read_model(made, "tiny").manifest.files


def test_a_folder_of_everything_is_not_taken_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosslogic_model_store.local_model._MAX_SEEN", 5)
    with pytest.raises(ModelStoreError, match="no model's folder"):
        find_files(make_model(tmp_path / "m"))


def test_weights_that_a_vendor_lays_down_twice_are_stored_and_counted_once(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", weights_bytes=4096)
    alone = read_model(folder, "tiny").manifest
    (folder / "consolidated.safetensors").write_bytes((folder / SHARD).read_bytes())
    (folder / "params.json").write_text("{}")
    twice = read_model(folder, "tiny")
    assert twice.manifest == alone
    assert {"consolidated.safetensors", "params.json"} <= set(twice.left_out)
    for name in (SHARD, "model.safetensors.index.json"):
        (folder / name).unlink()
    vendors = {file.path for file in read_model(folder, "tiny").manifest.files}
    assert {"consolidated.safetensors", "params.json"} <= vendors


@pytest.mark.parametrize("depth", [5_000, 900_000])
def test_a_manifest_or_configuration_of_a_million_brackets_is_refused_in_words(tmp_path: Path, depth: int) -> None:
    with pytest.raises(ModelStoreError, match="not JSON"):
        parse_manifest(b"[" * depth + b"]" * depth)
    folder = make_model(tmp_path / "m")
    (folder / "config.json").write_bytes(b"[" * depth + b"]" * depth)
    with pytest.raises(ModelStoreError, match="not JSON"):
        read_model(folder, "tiny")
