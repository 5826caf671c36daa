"""The stub wheel: another team installs it alone and every stub loads."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(ROOT / "libs/protos"),
    ]
    subprocess.run(build, check=True, capture_output=True, text=True)
    return next(out.glob("crosslogic_protos-*.whl"))


def test_every_contract_is_in_the_wheel_with_its_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for proto in (ROOT / "protos").rglob("crosslogic/**/*.proto"):
        stem = str(proto.relative_to(ROOT / "protos").with_suffix(""))
        assert {f"{stem}_pb2.py", f"{stem}_pb2.pyi", f"{stem}_pb2_grpc.py"} <= names
    assert "crosslogic/py.typed" in names


def test_a_team_that_installs_only_the_wheel_can_import_every_stub(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    # The wheel by itself, and of our own environment nothing but the two packages that it asks for.
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith("/METADATA"))).decode()
    asked_for = sorted(
        line.split(":")[1].split(">")[0].strip() for line in metadata.splitlines() if "Requires-Dist" in line
    )
    assert asked_for == ["grpcio", "protobuf"]
    ours = next(Path(path) for path in sys.path if (Path(path) / "grpc" / "__init__.py").exists())
    for package in ("grpc", "google", "typing_extensions.py"):
        (site / package).symlink_to(ours / package)
    modules = [
        str(proto.relative_to(ROOT / "protos").with_suffix("")).replace("/", ".") + suffix
        for proto in (ROOT / "protos").rglob("crosslogic/**/*.proto")
        for suffix in ("_pb2", "_pb2_grpc")
    ]
    script = f"import sys; sys.path.insert(0, {str(site)!r})\n" + "\n".join(f"import {name}" for name in modules)
    script += "\nassert 'crosslogic_common' not in sys.modules\nprint(len(sys.modules))"
    done = subprocess.run([str(python), "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
