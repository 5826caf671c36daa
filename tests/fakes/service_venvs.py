"""An empty environment for one service: just what the lock names for it, as its image has it.

Files are linked from the environment that runs the tests, which was installed from the same lock, so that nothing is
fetched. Our own packages are built as wheels: a file that a wheel leaves out is missing, as it would be in the image.
"""

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from functools import cache
from importlib.metadata import Distribution, distribution
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[2]


@cache
def members() -> dict[str, Path]:
    """The workspace's own distributions, by name, and where they are."""
    files = [*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")]
    return {tomllib.loads(file.read_text())["project"]["name"]: file.parent for file in files}


def own_needed(name: str) -> set[str]:
    """The workspace's distributions that an image of `name` installs: itself and what it needs, of these."""
    found = {name}
    waiting = [name]
    while waiting:
        project = tomllib.loads((members()[waiting.pop()] / "pyproject.toml").read_text())["project"]
        for requirement in project["dependencies"]:
            other = requirement.partition(">")[0].partition("=")[0].partition("[")[0].strip()
            if other in members() and other not in found:
                found.add(other)
                waiting.append(other)
    return found


def locked(name: str) -> dict[str, str]:
    """Foreign distributions that the lock names for `name` on this machine, with their versions."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "export", "--quiet", "--frozen", "--offline", "--no-cache", "--package", name, "--no-dev"]
    command += ["--no-emit-workspace", "--no-annotate", "--no-hashes", "--no-header", "--format", "requirements-txt"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted: dict[str, str] = {}
    for line in text.splitlines():
        requirement, _, marker = line.partition(";")
        distribution_name, _, version = requirement.strip().partition("==")
        if not marker.strip() or _applies(marker):
            wanted[distribution_name.partition("[")[0]] = version
    return wanted


def _applies(marker: str) -> bool:
    from packaging.markers import Marker

    return Marker(marker).evaluate()


def build_wheels(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """Our own packages as wheels."""
    built: dict[str, Path] = {}
    for name in sorted(names):
        (wheel,) = WheelBuilder(str(members()[name])).build(directory=str(folder / name), versions=["standard"])
        built[name] = Path(wheel)
    return built


def make_environment(folder: Path, *, name: str, wheels: dict[str, Path]) -> Path:
    """An environment that holds what `name` needs and nothing else; the path of its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    for needed, wanted in locked(name).items():
        found = distribution(needed)
        assert found.version == wanted, f"{needed} is {found.version} here, and {wanted} in the lock: make venv"
        _link(found, site)
    for own in own_needed(name):
        with zipfile.ZipFile(wheels[own]) as wheel:
            wheel.extractall(site)
    return folder / "bin" / "python"


def _link(found: Distribution, site: Path) -> None:
    for file in found.files or ():
        if ".." in file.parts or file.suffix == ".pyc":
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(str(file.locate()), target)
        except OSError:
            # Another file system: linked by name instead.
            target.symlink_to(str(file.locate()))
