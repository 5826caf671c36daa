"""Uploads to a real S3 server, broken off and gone on with."""

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.local_model import read_model
from crosslogic_model_store.manifest import blob_key, manifest_key
from crosslogic_model_store.place import Place
from crosslogic_model_store.stored_models import StoredModels
from crosslogic_model_store.upload import Uploader, open_client
from tests.fakes.s3_server import environ_of
from tests.fakes.small_models import before_parts, make_model

MIB = 2**20
PART_BYTES = 5 * MIB
_DIES_AFTER_3_PARTS = """
import os, signal, sys
from pathlib import Path
from crosslogic_model_store.local_model import read_model
from crosslogic_model_store.place import place_from
from crosslogic_model_store.stored_models import StoredModels
from crosslogic_model_store.upload import Uploader

parts = []

def on_bytes(count):
    if count == 5 * 2**20:
        parts.append(count)
    if len(parts) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

Uploader(place_from(os.environ), workers=1, least_part_bytes=5 * 2**20, on_bytes=on_bytes).upload(
    read_model(Path(sys.argv[1]), "killed")
)
"""


@pytest.fixture
def s3(place: Place) -> Any:
    return open_client(place)


def test_a_model_is_there_byte_for_byte_and_a_second_upload_sends_nothing(
    place: Place, s3: Any, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "m", weights_bytes=11 * MIB, shards=2)
    local = read_model(folder, "whole")
    sent: list[int] = []
    assert Uploader(place, least_part_bytes=PART_BYTES, on_bytes=sent.append).upload(local)
    assert sum(sent) == local.manifest.size_bytes
    for file in local.manifest.files:
        body = s3.get_object(Bucket=place.bucket, Key=blob_key("whole", file.sha256))["Body"].read()
        assert body == (folder / file.path).read_bytes()
    assert StoredModels(place).versions("whole") == [local.manifest]

    again: list[int] = []
    uploader = Uploader(place, on_bytes=again.append)
    written = _count_writes(uploader)
    assert not uploader.upload(local)
    assert written == []
    assert sum(again) == local.manifest.size_bytes


def test_versions_share_the_files_that_they_have_in_common(place: Place, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", weights_bytes=MIB)
    Uploader(place).upload(read_model(folder, "shared"))
    (folder / "generation_config.json").write_text("{}")
    uploader = Uploader(place)
    written = _count_writes(uploader)
    assert uploader.upload(read_model(folder, "shared"))
    assert len(written) == 2  # the new file and the manifest
    assert len(StoredModels(place).versions("shared")) == 2


def test_a_version_of_before_parts_stays_and_uploaded_again_sends_no_file_twice(place: Place, tmp_path: Path) -> None:
    local = read_model(make_model(tmp_path / "m", seed=5), "older")
    older = replace(local, manifest=before_parts(local.manifest))
    assert Uploader(place).upload(older)
    uploader = Uploader(place)
    written = _count_writes(uploader)
    assert uploader.upload(local)
    assert len(written) == 1  # the manifest
    assert {each.revision: each for each in StoredModels(place).versions("older")} == {
        each.revision: each for each in (older.manifest, local.manifest)
    }


def test_an_upload_that_was_killed_is_gone_on_with_and_is_no_model_until_then(
    place: Place, s3: Any, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "m", weights_bytes=30 * MIB)
    local = read_model(folder, "killed")
    weights = next(file for file in local.manifest.files if file.size_bytes > MIB)
    key = blob_key("killed", weights.sha256)
    environ = {**os.environ, **environ_of(place)}
    killed = subprocess.run([sys.executable, "-c", _DIES_AFTER_3_PARTS, str(folder)], env=environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    sent = _parts(s3, place, key)
    assert len(sent) == 3
    assert StoredModels(place).versions("killed") == []

    uploader = Uploader(place, least_part_bytes=PART_BYTES)
    written = _count_writes(uploader)
    assert uploader.upload(local)
    assert sum(name == "upload_part" for name in written) == 7 - len(sent)
    s3.download_file(place.bucket, key, str(tmp_path / "back"))
    assert hashlib.sha256((tmp_path / "back").read_bytes()).hexdigest() == weights.sha256
    assert [manifest.revision for manifest in StoredModels(place).versions("killed")] == [local.manifest.revision]


def test_a_file_that_changes_while_it_is_uploaded_never_becomes_a_version(
    place: Place, s3: Any, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "m", weights_bytes=11 * MIB)
    local = read_model(folder, "changing")
    file = folder / "model-00001-of-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelStoreError, match="changed while"):
        Uploader(place, least_part_bytes=PART_BYTES).upload(local)
    assert StoredModels(place).versions("changing") == []


def test_a_manifest_is_never_written_over(place: Place, s3: Any, tmp_path: Path) -> None:
    local = read_model(make_model(tmp_path / "m"), "immutable")
    uploader = Uploader(place)
    uploader.upload(local)
    key = manifest_key("immutable", local.manifest.revision)
    before = s3.head_object(Bucket=place.bucket, Key=key)["LastModified"]
    assert not uploader._write_manifest(local.manifest)
    assert s3.head_object(Bucket=place.bucket, Key=key)["LastModified"] == before


def test_a_storage_that_is_away_is_not_told_as_one_that_refuses(tmp_path: Path) -> None:
    local = read_model(make_model(tmp_path / "m"), "nowhere")
    nowhere = Place(endpoint="http://127.0.0.1:9", bucket="b", access_key_id="k", secret_access_key="secret-word")
    with pytest.raises(ModelStoreError, match="object storage does not answer") as error:
        Uploader(nowhere).upload(local)
    assert "secret-word" not in str(error.value)


def _parts(s3: Any, place: Place, key: str) -> list[Any]:
    uploads = s3.list_multipart_uploads(Bucket=place.bucket, Prefix=key).get("Uploads", [])
    return [
        part
        for upload in uploads
        for part in s3.list_parts(Bucket=place.bucket, Key=key, UploadId=upload["UploadId"]).get("Parts", [])
    ]


def _count_writes(uploader: Uploader) -> list[str]:
    """Names of the writing calls that the uploader makes from now on."""
    seen: list[str] = []

    def note(model: Any, **_: Any) -> None:
        if model.http["method"] in ("PUT", "POST"):
            seen.append({"UploadPart": "upload_part"}.get(model.name, model.name))

    uploader._client.meta.events.register("before-call.s3", note)
    return seen
