"""What was lost or spoilt in the bucket is found and mended, and what nobody ended is seen."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crosslogic_cli.failure import CliError
from crosslogic_cli.progress import Lines
from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.local_model import LocalModel, read_model
from crosslogic_model_store.manifest import blob_key, manifest_key
from crosslogic_model_store.place import Place
from crosslogic_model_store.stored_models import StoredModels
from crosslogic_model_store.upload import Uploader, open_client
from tests.fakes.admin_neighbours import Neighbours
from tests.fakes.command_line import CommandLine
from tests.fakes.s3_server import environ_of
from tests.fakes.small_models import make_model

MIB = 2**20
PART_BYTES = 5 * MIB


@pytest.fixture
def s3(place: Place) -> Any:
    return open_client(place)


@pytest.fixture
async def line(place: Place) -> AsyncIterator[CommandLine]:
    async with CommandLine(Neighbours().app()) as found:
        found.environ = environ_of(place)
        yield found


def stored(place: Place, folder: Path, name: str) -> LocalModel:
    local = read_model(make_model(folder, weights_bytes=100_000, shards=2), name)
    assert Uploader(place).upload(local)
    return local


def weights_of(local: LocalModel) -> str:
    return blob_key(local.manifest.model, max(local.manifest.files, key=lambda file: file.size_bytes).sha256)


@pytest.mark.parametrize("harm", ["removed", "truncated"])
def test_a_version_that_lost_an_object_is_whole_again_after_the_next_upload(
    place: Place, s3: Any, tmp_path: Path, harm: str
) -> None:
    local = stored(place, tmp_path / "m", f"lost-{harm}")
    body = s3.get_object(Bucket=place.bucket, Key=weights_of(local))["Body"].read()
    s3.delete_object(Bucket=place.bucket, Key=weights_of(local))
    if harm == "truncated":
        s3.put_object(Bucket=place.bucket, Key=weights_of(local), Body=body[:-1])
    sent: list[int] = []
    assert Uploader(place, on_bytes=sent.append).upload(local)
    assert sum(sent) == local.manifest.size_bytes
    assert s3.get_object(Bucket=place.bucket, Key=weights_of(local))["Body"].read() == body
    assert not Uploader(place).upload(local)


@pytest.mark.parametrize("wrong", [b"not JSON", b"{}"])
def test_a_manifest_that_somebody_wrote_over_hides_no_other_version_and_is_mended(
    place: Place, s3: Any, tmp_path: Path, wrong: bytes
) -> None:
    name = f"manifest-{len(wrong)}"
    first = stored(place, tmp_path / "m", name)
    (tmp_path / "m" / "generation_config.json").write_text("{}")
    second = read_model(tmp_path / "m", name)
    Uploader(place).upload(second)
    s3.put_object(Bucket=place.bucket, Key=manifest_key(name, first.manifest.revision), Body=wrong)
    told: list[str] = []
    assert StoredModels(place).versions(name, on_wrong=lambda key, _: told.append(key)) == [second.manifest]
    assert told == [manifest_key(name, first.manifest.revision)]
    assert Uploader(place).upload(first)
    assert {each.revision for each in StoredModels(place).versions(name)} == {
        first.manifest.revision,
        second.manifest.revision,
    }


async def test_a_byte_that_flipped_in_the_bucket_is_found_and_only_that_object_is_sent_again(
    place: Place, s3: Any, line: CommandLine, tmp_path: Path
) -> None:
    local = stored(place, tmp_path / "m", "flipped")
    whole = json.loads(await line.run("--json", "models", "verify", "flipped"))
    assert whole == [{"revision": local.manifest.revision, "whole": True, "wrong": []}]
    body = bytearray(s3.get_object(Bucket=place.bucket, Key=weights_of(local))["Body"].read())
    body[-1] ^= 1
    s3.put_object(Bucket=place.bucket, Key=weights_of(local), Body=bytes(body))
    error = await line.run("models", "verify", "flipped", fails=True)
    assert isinstance(error, CliError)
    assert "--remove-wrong" in str(error)
    assert isinstance(await line.run("--yes", "models", "verify", "flipped", "--remove-wrong", fails=True), CliError)
    assert Uploader(place).upload(local)
    assert StoredModels(place).wrong_files(local.manifest) == []
    assert "No such version" in str(await line.run("models", "verify", "nothing", fails=True))


async def test_uploads_that_nobody_ended_are_listed_and_given_up(place: Place, s3: Any, line: CommandLine) -> None:
    key = blob_key("given-up", "0" * 64)
    begun = s3.create_multipart_upload(Bucket=place.bucket, Key=key)["UploadId"]
    s3.upload_part(Bucket=place.bucket, Key=key, UploadId=begun, PartNumber=1, Body=b"x" * 1000)
    long_ago = ("--older-than-hours", "900000")
    assert json.loads(await line.run("--json", "models", "unfinished", *long_ago)) == []
    now = ("--older-than-hours", "0")
    (found,) = json.loads(await line.run("--json", "models", "unfinished", *now))
    assert (found["key"], found["size_bytes"], found["aborted"]) == (key, 1000, False)
    assert json.loads(await line.run("--json", "models", "unfinished", "other", *now)) == []
    assert json.loads(await line.run("--json", "--yes", "models", "unfinished", "given-up", "--abort", *now))
    assert StoredModels(place).unfinished() == []


def test_parts_of_a_file_that_changed_meanwhile_are_not_left_for_the_next_upload_to_go_on_from(
    place: Place, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "m", weights_bytes=16 * MIB)
    local = read_model(folder, "changing")
    weights = folder / "model-00001-of-00001.safetensors"

    def change(count: int) -> None:
        if count == PART_BYTES:
            weights.write_bytes(weights.read_bytes()[:-1] + b"?")

    with pytest.raises(ModelStoreError, match="changed while"):
        Uploader(place, workers=1, least_part_bytes=PART_BYTES, on_bytes=change).upload(local)
    assert StoredModels(place).unfinished("changing") == []


async def test_an_upload_that_could_not_be_registered_is_refused_before_it_begins(
    place: Place, line: CommandLine, tmp_path: Path
) -> None:
    line.environ = {**line.environ, "CROSSLOGIC_ADMIN_TOKEN": "wrong"}
    error = await line.run("models", "upload", str(make_model(tmp_path / "early")), fails=True)
    assert isinstance(error, CliError)
    assert StoredModels(place).versions("early") == []


def test_without_a_terminal_long_work_is_told_in_a_line_now_and_then() -> None:
    said: list[str] = []
    now = datetime.now(UTC).timestamp()
    clock = iter([now, now + 1, now + 10, now + 11, now + 20.5])
    tell = Lines(said.append, now=lambda: next(clock)).add("upload", 200 * MIB)
    for _ in range(4):
        tell(50 * MIB)
    assert said == [
        "upload: 100 of 200 MiB (50%), 10 MiB/s, 10 s left\n",
        "upload: 200 of 200 MiB (100%), 10 MiB/s\n",
    ]
    short: list[str] = []
    Lines(short.append).add("upload", 10)(10)
    assert short == []
