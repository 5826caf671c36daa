"""A hub's model comes whole and of one commit, or is told in words, whatever the hub does."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.hub import Hub
from crosslogic_model_store.local_model import read_model
from tests.fakes.hub_server import COMMIT, FakeHub, hub_server
from tests.fakes.small_models import make_model

NAME = "team/tiny-model"
WEIGHTS = "model-00001-of-00002.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    source = make_model(tmp_path / "source", weights_bytes=400_000, shards=2)
    files = {path.name: path.read_bytes() for path in sorted(source.iterdir())}
    with hub_server(FakeHub(NAME, files)) as served:
        yield served


def fetch(hub: FakeHub, folder: Path, *, token: str = "", revision: str = "main") -> int:
    """Brings the model there; how many bytes were told of."""
    told: list[int] = []
    client = Hub(endpoint=hub.address + "/", token=token)
    try:
        folder.mkdir(exist_ok=True)
        client.fetch(client.look_up(NAME, revision=revision), folder, on_bytes=told.append)
    finally:
        client.close()
    return sum(told)


def is_whole(hub: FakeHub, folder: Path) -> bool:
    return all((folder / path).read_bytes() == body for path, body in hub.files.items() if (folder / path).exists())


def test_a_hubs_model_comes_without_its_pickles_and_code_and_can_be_uploaded(hub: FakeHub, tmp_path: Path) -> None:
    told = fetch(hub, tmp_path / "m")
    assert {path.name for path in (tmp_path / "m").iterdir()} == hub.files.keys() - {
        "pytorch_model.bin",
        "modeling_evil.py",
    }
    assert is_whole(hub, tmp_path / "m")
    assert told == sum(path.stat().st_size for path in (tmp_path / "m").iterdir())
    model = read_model(tmp_path / "m", NAME)
    assert model.manifest.facts.licence == "apache-2.0"
    assert all(f"/{COMMIT}/" in path for path in hub.paths("hub") if "/resolve/" in path)


def test_the_token_goes_to_the_hub_and_to_no_other_host(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    fetch(hub, tmp_path / "m", token="hf_secret", revision=COMMIT)
    assert is_whole(hub, tmp_path / "m")
    assert sorted(hub.paths("cdn")) == sorted(f"/{path}" for path in hub.files if path.startswith("model-"))
    assert all(headers["authorization"] == "Bearer hf_secret" for where, _, headers in hub.asked if where == "hub")
    assert not [headers for where, _, headers in hub.asked if where == "cdn" and "authorization" in headers]


def test_a_model_that_asks_for_a_token_says_so_and_one_that_is_not_there_too(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    with pytest.raises(ModelStoreError, match="set HF_TOKEN, and accept the model's terms"):
        fetch(hub, tmp_path / "m", token="hf_wrong")
    with pytest.raises(ModelStoreError, match="no such model or revision"):
        fetch(hub, tmp_path / "m", token="hf_secret", revision="not-there")
    with pytest.raises(ModelStoreError, match="neither a folder nor a hub id"):
        Hub(endpoint=hub.address).look_up("../../etc")


def test_a_download_that_breaks_off_is_gone_on_with_where_it_was(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut = 2
    told = fetch(hub, tmp_path / "m")
    assert is_whole(hub, tmp_path / "m")
    assert told == sum(path.stat().st_size for path in (tmp_path / "m").iterdir())
    assert [headers["range"] for where, _, headers in hub.asked if where == "cdn" and "range" in headers]


def test_a_download_that_keeps_breaking_off_is_told_and_a_second_run_asks_for_the_rest(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.cut = 5
    with pytest.raises(ModelStoreError, match=f"broke off while it sent {WEIGHTS}"):
        fetch(hub, tmp_path / "m")
    hub.cut, hub.asked = 0, []
    fetch(hub, tmp_path / "m")
    assert is_whole(hub, tmp_path / "m")
    resumed = [headers.get("range") for where, path, headers in hub.asked if (where, path) == ("cdn", f"/{WEIGHTS}")]
    assert len(resumed) == 1
    assert int((resumed[0] or "").removeprefix("bytes=").removesuffix("-")) > len(hub.files[WEIGHTS]) // 2
    hub.asked = []
    fetch(hub, tmp_path / "m")
    assert [path for path in hub.paths("hub") if "/resolve/" in path] == []


def test_files_that_a_hub_would_compress_come_as_they_are(hub: FakeHub, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_bytes())["vocab_size"] == 512
    assert {headers["accept-encoding"] for _, _, headers in hub.asked} == {"identity"}


def test_weights_that_are_not_those_that_the_hub_lists_are_not_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.flipped = WEIGHTS
    with pytest.raises(ModelStoreError, match=f"another {WEIGHTS} than it lists"):
        fetch(hub, tmp_path / "m")
    assert not list((tmp_path / "m").glob(f"{WEIGHTS}*"))
    hub.flipped = ""
    fetch(hub, tmp_path / "m")
    assert is_whole(hub, tmp_path / "m")


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        (b"<html>sign in</html>", "not JSON"),
        (b"[]", "names no commit"),
        (b'{"sha": "main"}', "names no commit"),
    ],
)
def test_an_answer_that_is_no_listing_is_told(hub: FakeHub, tmp_path: Path, listing: bytes, words: str) -> None:
    hub.listing = listing
    with pytest.raises(ModelStoreError, match=words):
        fetch(hub, tmp_path / "m")


def test_a_listing_cannot_make_files_elsewhere_or_bring_code(hub: FakeHub, tmp_path: Path) -> None:
    names = ["../up.safetensors", "/x.safetensors", "run.py", "a/../../b/config.json", 7, None, {"rfilename": "x"}]
    rows: list[object] = [{"rfilename": name, "size": "big"} for name in names] + [None, 3, "config.json"]
    hub.listing = json.dumps({"sha": COMMIT, "siblings": rows}).encode()
    assert fetch(hub, tmp_path / "m") == 0
    assert list((tmp_path / "m").iterdir()) == []
    assert list(tmp_path.glob("*.safetensors")) == []


def test_a_hub_that_is_asked_too_often_is_asked_again_when_it_says(hub: FakeHub, tmp_path: Path) -> None:
    pauses: list[float] = []
    hub.busy = 3
    client = Hub(endpoint=hub.address, sleep=pauses.append)
    (tmp_path / "m").mkdir()
    client.fetch(client.look_up(NAME), tmp_path / "m")
    client.close()
    assert is_whole(hub, tmp_path / "m")
    assert pauses == [7.0] * 3
    hub.busy = 99
    client = Hub(endpoint=hub.address, sleep=pauses.append)
    with pytest.raises(ModelStoreError, match="it answers 429"):
        client.look_up(NAME)
    client.close()


def test_weights_that_a_full_disk_cut_are_fetched_anew_though_their_length_is_right(
    hub: FakeHub, tmp_path: Path
) -> None:
    fetch(hub, tmp_path / "m")
    kept = tmp_path / "m" / WEIGHTS
    kept.write_bytes(bytes(kept.stat().st_size))
    fetch(hub, tmp_path / "m")
    assert is_whole(hub, tmp_path / "m")


def test_a_disk_that_is_too_small_for_a_model_is_told_before_anything_comes(hub: FakeHub, tmp_path: Path) -> None:
    rows = [{"rfilename": "model.safetensors", "size": 2**60}, {"rfilename": "config.json", "size": 10}]
    hub.listing = json.dumps({"sha": COMMIT, "siblings": rows}).encode()
    with pytest.raises(ModelStoreError, match="has too little room"):
        fetch(hub, tmp_path / "m")
    assert [path for path in hub.paths("hub") if "/resolve/" in path] == []


def test_weights_that_a_vendor_lays_down_twice_are_fetched_once(hub: FakeHub, tmp_path: Path) -> None:
    hub.files |= {"consolidated.safetensors": b"x" * 50_000, "params.json": b"{}"}
    fetch(hub, tmp_path / "m")
    assert not {"consolidated.safetensors", "params.json"} & {path.name for path in (tmp_path / "m").iterdir()}
