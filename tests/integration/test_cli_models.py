"""`crosslogic models upload`: from a folder or a hub into object storage and the catalogue."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crosslogic_cli.failure import CliError
from crosslogic_model_store.manifest import parse_manifest
from crosslogic_model_store.place import Place
from tests.fakes.admin_neighbours import Neighbours
from tests.fakes.command_line import CommandLine
from tests.fakes.hub_server import COMMIT, FakeHub, hub_server
from tests.fakes.s3_server import environ_of
from tests.fakes.small_models import make_model

NAME = "team/tiny-model"


@pytest.fixture
def neighbours() -> Neighbours:
    return Neighbours()


@pytest.fixture
async def line(neighbours: Neighbours, place: Place) -> AsyncIterator[CommandLine]:
    async with CommandLine(neighbours.app()) as found:
        found.environ = environ_of(place)
        yield found


async def test_a_hubs_model_is_uploaded_and_the_catalogue_told(
    line: CommandLine, neighbours: Neighbours, tmp_path: Path
) -> None:
    source = make_model(tmp_path / "source", weights_bytes=100_000, shards=2)
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    with hub_server(FakeHub(NAME, files, token="hf_secret")) as hub:
        line.environ = {**line.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_secret"}
        done = json.loads(await line.run("--json", "models", "upload", NAME))
    assert (done["model"], done["source"], done["licence"]) == (NAME, f"{NAME}@{COMMIT}", "apache-2.0")
    assert (done["uploaded"], done["registered"]) == (True, True)
    told = parse_manifest(neighbours.model_store.asked[-1].manifest)
    assert told.revision == done["revision"]
    (stored,) = json.loads(await line.run("--json", "models", "stored", NAME))
    assert stored["revision"] == done["revision"]


async def test_a_folder_is_uploaded_once_and_registered_only_when_that_is_wanted(
    line: CommandLine, neighbours: Neighbours, tmp_path: Path
) -> None:
    folder = str(make_model(tmp_path / "tiny", seed=7))
    first = json.loads(await line.run("--json", "models", "upload", folder, "--no-register", "--licence", "mit"))
    assert (first["model"], first["licence"], first["uploaded"], first["registered"]) == ("tiny", "mit", True, False)
    assert set(first["left_out"]) == {"README.md", "modeling_evil.py", "pytorch_model.bin"}
    assert neighbours.model_store.asked == []
    again = json.loads(await line.run("--json", "models", "upload", folder))
    assert (again["uploaded"], again["revision"]) == (False, first["revision"])
    assert [type(asked).__name__ for asked in neighbours.model_store.asked] == [
        "ListModelVersionsRequest",
        "AddModelVersionRequest",
    ]


async def test_what_stands_against_an_upload_is_told_in_words(
    line: CommandLine, neighbours: Neighbours, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for model, words in (
        (str(tmp_path / "empty"), "no config.json"),
        ("no such folder", "neither a folder nor a hub id"),
    ):
        error = await line.run("models", "upload", model, fails=True)
        assert isinstance(error, CliError)
        assert words in str(error)
    line.environ = {**line.environ, "R2_BUCKET_NAME": ""}
    error = await line.run("models", "upload", str(make_model(tmp_path / "m")), fails=True)
    assert isinstance(error, CliError)
    assert "missing: R2_BUCKET_NAME" in str(error)
    assert "not-a-secret" not in str(error)
    assert {type(asked).__name__ for asked in neighbours.model_store.asked} == {"ListModelVersionsRequest"}


async def test_whether_a_model_fits_is_reckoned_before_anything_is_paid_for(line: CommandLine, tmp_path: Path) -> None:
    folder = str(make_model(tmp_path / "m"))
    small = json.loads(await line.run("--json", "models", "fit", folder, "--gpu", "H100"))
    assert small["fits"]
    large = await line.run("models", "fit", folder, "--gpu", "H100", "--parameters", "400", fails=True)
    assert isinstance(large, CliError)
    assert str(large) == "It does not fit."
    unknown = await line.run("models", "fit", folder, "--gpu", "abacus", fails=True)
    assert "abacus is not known here" in str(unknown)
