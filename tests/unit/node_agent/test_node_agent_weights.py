"""Old weights leave the disk before it is full."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_node_agent.weights import Weights, WeightsCleaner, to_remove

held = st.lists(
    st.builds(
        Weights,
        path=st.integers(0, 1000).map(lambda number: Path(f"/w/{number}")),
        size_bytes=st.integers(0, 100),
        used_at=st.floats(0, 1e9),
    ),
    max_size=20,
    unique_by=lambda each: each.path,
)


@given(held, st.integers(0, 200), st.integers(0, 400), st.integers(0, 1000))
def test_no_more_is_removed_than_needed_and_never_what_is_in_use(
    all_held: list[Weights], free: int, wanted: int, used: int
) -> None:
    in_use = Path(f"/w/{used}")
    removed = to_remove(all_held, in_use=lambda path: path == in_use, free_bytes=free, wanted_bytes=wanted)
    assert in_use not in {each.path for each in removed}
    freed = sum(each.size_bytes for each in removed)
    if removed:
        assert free + freed - removed[-1].size_bytes < wanted
    if free + freed < wanted:
        assert len(removed) == len([each for each in all_held if each.path != in_use and each.size_bytes])
    kept = [each for each in all_held if each not in removed and each.path != in_use and each.size_bytes]
    assert all(old.used_at <= young.used_at for old in removed for young in kept)


def weigh(folder: Path, name: str, used_at: float) -> Path:
    (folder / name).mkdir()
    file = folder / name / "model.safetensors"
    file.write_bytes(b"w" * 100_000)
    os.utime(file, (used_at, used_at))
    return folder / name


def test_what_was_unused_longest_goes_first_and_links_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    precious = weigh(elsewhere, "precious", 1.0)
    directory = tmp_path / "weights"
    directory.mkdir()
    (directory / "a-link").symlink_to(precious)
    (directory / "a-file").write_text("notes")
    old, marked, served, young = (
        weigh(directory, name, at) for name, at in (("old", 10), ("marked", 20), ("m", 30), ("young", 40))
    )
    (marked / ".in-use").touch()
    os.utime(marked / ".in-use", (20, 20))
    usage = SimpleNamespace(total=1_000_000, used=950_000, free=50_000)
    monkeypatch.setattr("crosslogic_node_agent.weights.shutil.disk_usage", lambda _path: usage)
    cleaner = WeightsCleaner(directory=directory, keep=["m"], free_percent=10)
    assert cleaner.clean() == [old]
    assert precious.exists()
    assert WeightsCleaner(directory=directory, keep=["m"], free_percent=90).clean() == [young]
    left = sorted(path.name for path in directory.iterdir() if not path.name.startswith(".used-"))
    assert left == ["a-file", "a-link", "m", "marked"]
    assert served.exists()
    assert WeightsCleaner(directory=directory, keep=[], free_percent=0).clean() == []


_USES = """
import signal, sys
from pathlib import Path
from crosslogic_model_store.in_use import Use

use = Use(Path(sys.argv[1]), sys.argv[2])
print("used", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("folder", ["m@1", ".fetch-m@1"])
def test_what_another_agent_uses_or_fetches_stays_until_that_agent_dies_even_by_kill_9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    weighed = weigh(tmp_path, folder, 10)
    usage = SimpleNamespace(total=1_000_000, used=990_000, free=10_000)
    monkeypatch.setattr("crosslogic_node_agent.weights.shutil.disk_usage", lambda _path: usage)
    cleaner = WeightsCleaner(directory=tmp_path, keep=[], free_percent=90)
    command = [sys.executable, "-c", _USES, str(tmp_path), "m@1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"used\n"
        assert cleaner.clean() == []
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert cleaner.clean() == [weighed]
    mine = weigh(tmp_path, folder, 10)
    cleaner.keep_also("m@1")
    assert cleaner.clean() == []
    assert mine.exists()
