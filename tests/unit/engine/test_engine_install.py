"""What a fresh machine is told, and what is installed on it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from crosslogic_dev.engine import install
from crosslogic_dev.engine.command import engine_command, engine_env
from crosslogic_dev.engine.install import EngineStamp, check_machine, engine_python, install_engine, is_installed
from crosslogic_dev.engine.requirements import requirements_of
from crosslogic_dev.engine.tiny_model import SPECIAL_TOKENS, build_vocabulary, byte_symbols
from crosslogic_dev.engine.tiny_words import WORDS
from crosslogic_dev.failure import DevError

STAMP = EngineStamp(recipe=install.RECIPE, gpu=False, vllm=install.VLLM_VERSION, torch="2.13.0+cpu", click="8.5.1")


def tools(folder: Path, *names: str) -> dict[str, str]:
    for name in names:
        tool = folder / name
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
    return {"PATH": str(folder)}


def test_what_drags_in_gigabytes_or_belongs_to_an_extra_is_left_out() -> None:
    wanted = requirements_of(
        [
            "regex",
            "torch==2.13.0+cpu; platform_machine == 'x86_64'",
            "torchvision; platform_machine != 'riscv64'",
            "torchaudio",
            "torchcodec>=0.14",
            "torch-like-name",
            "pandas; extra == 'bench'",
            "fastapi[standard]<0.137.0,>=0.133.0",
            "six>=1.16.0; python_version > '3.11'",
        ]
    )
    assert wanted == [
        "regex",
        "torch-like-name",
        "fastapi[standard]<0.137.0,>=0.133.0",
        "six>=1.16.0; python_version > '3.11'",
        "click>=8.4.2",
    ]


def test_a_second_installation_does_nothing(tmp_path: Path) -> None:
    venv = tmp_path / "engine"
    engine_python(venv).parent.mkdir(parents=True)
    engine_python(venv).write_text("")
    STAMP.write(venv)
    lines: list[str] = []
    assert install_engine(venv, report=lines.append, environ={"PATH": ""}) == STAMP
    assert lines == []


@pytest.mark.parametrize("text", ["", "{}", '{"recipe": 1}', "not json"])
def test_an_incomplete_environment_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / install.STAMP).write_text(text)
    assert EngineStamp.read(tmp_path) is None
    assert not is_installed(tmp_path, gpu=False)


def test_an_environment_of_another_kind_or_version_is_made_again(tmp_path: Path) -> None:
    engine_python(tmp_path).parent.mkdir(parents=True)
    engine_python(tmp_path).write_text("")
    STAMP.write(tmp_path)
    assert is_installed(tmp_path, gpu=False)
    assert not is_installed(tmp_path, gpu=True)


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 1024**3))
    with pytest.raises(DevError, match=r"needs 6 GiB of disk and .* has 3.0 GiB free"):
        check_machine(tmp_path / "engine", gpu=False, environ=tools(tmp_path, "lscpu"))


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100 * 1024**3))
    with pytest.raises(DevError, match="lscpu"):
        check_machine(tmp_path / "engine", gpu=False, environ={"PATH": str(tmp_path)})
    with pytest.raises(DevError, match="C compiler"):
        check_machine(tmp_path / "engine", gpu=True, environ={"PATH": str(tmp_path)})
    check_machine(tmp_path / "engine", gpu=False, environ=tools(tmp_path, "lscpu"))


def test_a_folder_that_is_no_environment_is_not_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100 * 1024**3))
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(DevError, match="no virtual environment"):
        check_machine(precious, gpu=False, environ=tools(tmp_path, "lscpu"))


def test_an_engine_listens_in_exactly_one_place() -> None:
    python = Path("/e/bin/python")
    command = engine_command(python, "/m", "tiny", port=1234)
    assert command[:3] == ["/e/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert command[command.index("--port") + 1] == "1234"
    assert "--uds" in engine_command(python, "/m", "tiny", uds=Path("/s"))
    for where in ({}, {"port": 1, "uds": Path("/s")}):
        with pytest.raises(ValueError, match="either port or uds"):
            engine_command(python, "/m", "tiny", **where)  # type: ignore[arg-type]


def test_a_gpu_is_not_slowed_down_by_what_a_cpu_needs() -> None:
    gpu = engine_command(Path("p"), "m", "n", port=1, gpu=True)
    assert "--enforce-eager" not in gpu
    assert "TORCH_COMPILE_DISABLE" not in engine_env(gpu=True)
    assert engine_env()["TORCH_COMPILE_DISABLE"] == "1"
    assert "HF_HUB_OFFLINE" not in engine_env(offline=False)


def test_the_tiny_models_vocabulary_spells_every_byte_and_every_word() -> None:
    symbols = byte_symbols()
    assert len(set(symbols.values())) == 256
    vocabulary, merges, spoken = build_vocabulary(WORDS)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert set(symbols.values()) <= set(vocabulary)
    assert all(left in vocabulary and right in vocabulary and left + right in vocabulary for left, right in merges)
    names = {token: name for name, token in vocabulary.items()}
    words = {names[token] for token in spoken}
    assert {symbols[ord(" ")] + word for word in WORDS} <= words
    assert not set(SPECIAL_TOKENS) & words
