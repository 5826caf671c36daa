"""Weights come to a node's disk whole and verified, or not at all, whatever the storage and the machine do."""

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crosslogic_model_store import fetch as fetching
from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.fetch import FetchOptions, Urls, fetch, present
from crosslogic_model_store.local_model import read_model
from crosslogic_model_store.manifest import Manifest, blob_key
from crosslogic_model_store.place import Place
from crosslogic_model_store.presign import presigned_get
from crosslogic_model_store.upload import Uploader
from tests.fakes.range_server import RangeServer, range_server
from tests.fakes.small_models import before_parts, make_model

KIB = 1024
OPTIONS = FetchOptions(connections=4, block_bytes=64 * KIB, pause_s=0.001)


@dataclasses.dataclass
class Stored:
    """A model, a server that has it, and addresses that are good until they are renewed."""

    source: Path
    manifest: Manifest
    server: RangeServer
    renewed: int = 0

    def urls(self) -> Urls:
        self.renewed += 1
        return {file.sha256: f"{self.server.address}/{file.sha256}?key={self.renewed}" for file in self.manifest.files}

    def is_whole(self, folder: Path) -> bool:
        return all(
            (folder / file.path).read_bytes() == (self.source / file.path).read_bytes() for file in self.manifest.files
        )


@pytest.fixture(params=["by parts", "an older manifest"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stored]:
    source = make_model(tmp_path / "source", weights_bytes=1000 * KIB, shards=2)
    manifest = read_model(source, "team/tiny", part_bytes=64 * KIB).manifest
    if request.param == "an older manifest":
        manifest = before_parts(manifest)
    with range_server({f"/{file.sha256}": (source / file.path).read_bytes() for file in manifest.files}) as server:
        yield Stored(source, manifest, server)


def test_a_version_comes_whole_and_later_starts_ask_nobody(stored: Stored, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    options = dataclasses.replace(OPTIONS, on_progress=lambda done, total: seen.append((done, total)))
    folder = fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=options)
    assert stored.is_whole(folder)
    assert seen[-1] == (stored.manifest.size_bytes, stored.manifest.size_bytes)
    assert all(done <= total for done, total in seen)
    asked = len(stored.server.asked)
    assert fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=OPTIONS) == folder
    assert len(stored.server.asked) == asked
    assert not [path for path in (tmp_path / "w").rglob("*") if "blocks" in path.name or path.name == ".in-use"]


def test_a_storage_that_cuts_fails_and_refuses_is_asked_again(stored: Stored, tmp_path: Path) -> None:
    stored.server.cut, stored.server.fail, stored.server.refused_query = 2, 2, "key=1"
    seen: list[int] = []
    options = dataclasses.replace(OPTIONS, on_progress=lambda done, _: seen.append(done))
    folder = fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=options)
    assert stored.is_whole(folder)
    assert stored.renewed == 2
    assert max(seen) == stored.manifest.size_bytes


@pytest.mark.parametrize("status", [400, 401, 403])
def test_addresses_that_end_in_a_long_download_are_renewed_whatever_the_storage_calls_it(
    stored: Stored, tmp_path: Path, status: int
) -> None:
    def end_them(done: int, _: int) -> None:
        if done > 300 * KIB and stored.renewed == 1:
            stored.server.refused_query = "key=1"

    stored.server.refused_status = status
    options = dataclasses.replace(OPTIONS, on_progress=end_them)
    assert stored.is_whole(fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=options))
    assert stored.renewed == 2


def test_a_storage_that_stays_broken_is_told_and_what_came_is_kept(stored: Stored, tmp_path: Path) -> None:
    stored.server.fail = 10_000
    with pytest.raises(ModelStoreError, match="the storage answers 500"):
        fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=OPTIONS)
    assert present(tmp_path / "w", stored.manifest) is None
    stored.server.fail = 0
    assert stored.is_whole(fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=OPTIONS))


def test_bytes_that_are_not_those_of_the_manifest_never_become_a_model(stored: Stored, tmp_path: Path) -> None:
    right = dict(stored.server.bodies)
    name, body = max(right.items(), key=lambda each: len(each[1]))
    stored.server.bodies[name] = body[:-1] + bytes([body[-1] ^ 1])
    with pytest.raises(ModelStoreError, match="not what its checksum says"):
        fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=OPTIONS)
    assert present(tmp_path / "w", stored.manifest) is None
    stored.server.bodies = right
    assert stored.is_whole(fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=OPTIONS))


def test_a_node_that_was_killed_goes_on_where_it_was(stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(stored.manifest.to_json())
    command = [sys.executable, "-c", _DIES_AFTER_300_KIB, str(tmp_path), stored.server.address]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert present(tmp_path / "w", stored.manifest) is None
    stored.server.asked.clear()
    folder = fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=OPTIONS)
    assert stored.is_whole(folder)
    again = sum(count for _, _, count in stored.server.asked)
    assert again <= stored.manifest.size_bytes - 200 * KIB


def test_bytes_that_the_disk_lost_after_a_kill_never_become_a_model(stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(stored.manifest.to_json())
    command = [sys.executable, "-c", _DIES_AFTER_300_KIB, str(tmp_path), stored.server.address]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    begun = next(
        path
        for path in (tmp_path / "w").rglob("*.safetensors")
        if (path.parent / f"{path.name}.{64 * KIB}.blocks").exists()
    )
    with begun.open("r+b") as file:
        file.write(bytes(4096))
    with pytest.raises(ModelStoreError, match="not what its checksum says"):
        fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=OPTIONS)
    assert stored.is_whole(fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=OPTIONS))


def test_a_disk_that_fills_meanwhile_is_told_at_once_and_what_came_is_kept(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        if len(stored.server.asked) < 8:
            return write(*_)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ModelStoreError, match="cannot be written: No space left on device"):
        fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=OPTIONS)
    monkeypatch.undo()
    stored.server.asked.clear()
    assert stored.is_whole(fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=OPTIONS))
    assert sum(count for _, _, count in stored.server.asked) < stored.manifest.size_bytes


def test_two_agents_of_one_machine_fetch_once(stored: Stored, tmp_path: Path) -> None:
    found: list[Path] = []

    def one() -> None:
        found.append(fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=OPTIONS))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert stored.is_whole(found[0])
    assert sum(count for _, _, count in stored.server.asked) == stored.manifest.size_bytes


def test_a_disk_that_is_too_small_is_told_before_anything_comes(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[int] = []
    monkeypatch.setattr(fetching, "SPARE_BYTES", shutil.disk_usage(tmp_path).total)
    options = dataclasses.replace(OPTIONS, make_room=wanted.append)
    with pytest.raises(ModelStoreError, match="The disk is too small"):
        fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=options)
    assert wanted
    assert stored.server.asked == []


def test_a_fetch_can_be_stopped(stored: Stored, tmp_path: Path) -> None:
    stop = threading.Event()

    def on_progress(done: int, _: int) -> None:
        if done:
            stop.set()

    options = dataclasses.replace(OPTIONS, stop=stop, connections=1, on_progress=on_progress)
    with pytest.raises(ModelStoreError, match="stopped"):
        fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=options)
    assert present(tmp_path / "w", stored.manifest) is None


@pytest.mark.parametrize("keep_alive", [True, False], ids=["connections are kept", "a connection for each answer"])
def test_a_fetch_is_stopped_at_once_though_the_storage_has_gone_silent(
    stored: Stored, tmp_path: Path, keep_alive: bool
) -> None:
    stop = threading.Event()
    stored.server.keep_alive = keep_alive
    stored.server.silent.set()
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    with pytest.raises(ModelStoreError, match="stopped"):
        fetch(stored.manifest, root=tmp_path / "w", urls=stored.urls, options=dataclasses.replace(OPTIONS, stop=stop))
    assert time.monotonic() - began < 10, "and not after the half minute that an answer may take"


def test_signed_addresses_open_one_models_objects_at_a_real_s3_server(place: Place, tmp_path: Path) -> None:
    source = make_model(tmp_path / "source", weights_bytes=300 * KIB)
    local = read_model(source, "team/tiny@staging")
    Uploader(place).upload(local)

    def urls() -> Urls:
        now = datetime.now(UTC)
        return {
            file.sha256: presigned_get(place, blob_key(local.manifest.model, file.sha256), now=now, valid_s=60)
            for file in local.manifest.files
        }

    folder = fetch(local.manifest, root=tmp_path / "w", urls=urls, options=OPTIONS)
    assert all((folder / f.path).read_bytes() == (source / f.path).read_bytes() for f in local.manifest.files)


_DIES_AFTER_300_KIB = f"""
import dataclasses, os, signal, sys
from pathlib import Path
from crosslogic_model_store.fetch import FetchOptions, fetch
from crosslogic_model_store.manifest import parse_manifest

folder, address = Path(sys.argv[1]), sys.argv[2]
manifest = parse_manifest((folder / "manifest.json").read_bytes())

def on_progress(done, total):
    if done > 300 * {KIB}:
        os.kill(os.getpid(), signal.SIGKILL)

fetch(
    manifest,
    root=folder / "w",
    urls=lambda: {{file.sha256: f"{{address}}/{{file.sha256}}?key=0" for file in manifest.files}},
    options=FetchOptions(connections=1, block_bytes=64 * {KIB}, on_progress=on_progress),
)
"""
