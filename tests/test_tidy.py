"""Keeps the house tidy: what the style asks for and no linter checks."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SERVICES = ("accountant", "billing", "gateway", "identity", "node_agent", "orchestrator", "registry", "scheduler")
MAX_LINES = 600
GENERATED = ("libs/protos/src/", "libs/admin_client/src/crosslogic_admin/client.py")
VAGUE_NAMES = {"utils.py", "util.py", "helpers.py", "helper.py", "manager.py", "misc.py"}
# In pieces, so that this file does not name them itself.
REGISTRY_HOSTS = tuple(
    "".join(parts)
    for parts in (
        ("pypi", ".org"),
        ("python", "hosted.org"),
        ("registry.", "npmjs"),
        ("npmjs", ".com"),
        ("yarnpkg", ".com"),
        ("crates", ".io"),
        ("proxy.golang", ".org"),
        ("download.pytorch", ".org"),
    )
)
PLACES_OF_ONE_MACHINE = re.compile(r"(?<![\w.$}-])/(?:work/(?:main|shared)|root/|tmp/brief)")
UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")


def tracked(*suffixes: str) -> Iterator[tuple[str, Path]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and (not suffixes or path.suffix in suffixes):
            yield name, path


def written_python() -> Iterator[tuple[str, Path]]:
    return ((name, path) for name, path in tracked(".py") if not name.startswith(GENERATED))


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def nodes_of(path: Path, *words: str) -> Iterator[ast.AST]:
    """The syntax tree of a file that has one of these words; of others there is no need to read it."""
    text = text_of(path)
    if any(word in text for word in words):
        yield from ast.walk(ast.parse(text))


def test_a_reader_finds_no_file_longer_than_600_lines() -> None:
    long = {name: text_of(path).count("\n") for name, path in written_python()}
    assert {name: lines for name, lines in long.items() if lines > MAX_LINES} == {}


def test_nothing_hides_in_a_file_whose_name_says_nothing() -> None:
    assert [name for name, path in written_python() if path.name in VAGUE_NAMES] == []


def test_no_function_changes_a_module_behind_its_readers_back() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, path in written_python()
        for node in nodes_of(path, "global")
        if isinstance(node, ast.Global)
    ]
    assert found == []


def test_nothing_is_left_for_later_without_an_issue() -> None:
    found = [
        f"{name}:{number}"
        for name, path in tracked(".py", ".proto", ".sql", ".lua", ".sh", ".md", ".toml")
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if UNFINISHED.search(line)
    ]
    assert found == []


def test_no_test_is_switched_off() -> None:
    marks = {"skip", "skipif", "xfail", "importorskip"}
    found = [
        f"{name}:{node.lineno}"
        for name, path in written_python()
        if name.startswith("tests/")
        for node in nodes_of(path, *marks)
        if isinstance(node, ast.Attribute) and node.attr in marks and ast.unparse(node).startswith("pytest.")
    ]
    assert found == []


def test_the_repository_can_be_installed_behind_any_mirror() -> None:
    found = [name for name, path in tracked() for host in REGISTRY_HOSTS if host in text_of(path)]
    assert found == []


def test_nothing_points_at_the_machine_it_was_written_on() -> None:
    found = [
        f"{name}: {match.group()}"
        for name, path in tracked()
        if (match := PLACES_OF_ONE_MACHINE.search(text_of(path))) is not None
    ]
    assert found == []


@pytest.mark.parametrize("service", SERVICES)
def test_whoever_runs_a_service_finds_its_readme_image_and_settings(service: str) -> None:
    folder = ROOT / "services" / service
    assert (folder / "Dockerfile").is_file()
    readme = text_of(folder / "README.md")
    source = "".join(text_of(path) for path in (folder / "src").rglob("settings.py"))
    declared = set(re.findall(r"""(?:secret_)?setting\(\s*["']([A-Z_]+)["']""", source))
    assert declared
    assert {name for name in declared if name not in readme} == set()


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_starts_its_own_service_as_nobody_in_particular(service: str) -> None:
    dockerfile = text_of(ROOT / "services" / service / "Dockerfile")
    assert f"crosslogic_{service}" in dockerfile
    assert re.search(r"^USER (?!root|0\b)", dockerfile, re.MULTILINE)


def test_every_lock_entry_is_pinned_by_a_hash() -> None:
    lock = text_of(ROOT / "uv.lock")
    files = re.findall(r"\{ url = [^}]*\}", lock)
    assert len(files) > 100
    assert [file for file in files if "sha256:" not in file] == []


def test_every_test_is_in_a_place_that_pytest_looks_into() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        places = tomllib.load(file)["tool"]["pytest"]["ini_options"]["testpaths"]
    tests = [name for name, path in tracked(".py") if path.name.startswith("test_") and "/fakes/" not in name]
    assert [name for name in tests if not name.startswith(tuple(places))] == []
