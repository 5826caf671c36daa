"""Programs of Debian's packages, for tests that need them where nobody installed them."""

import shutil
import subprocess
from pathlib import Path

import pytest


def debian_folder(factory: pytest.TempPathFactory) -> Path:
    """Where one session keeps what it unpacked."""
    folder = factory.getbasetemp() / "debian"
    folder.mkdir(exist_ok=True)
    return folder


def debian_binary(package: str, name: str, folder: Path) -> Path:
    """A program of a Debian package, unpacked where it is not installed."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    binary = folder / "usr/bin" / name
    if not binary.exists():
        fetch = ["apt-get", "download", package]
        if subprocess.run(fetch, cwd=folder, check=False, capture_output=True, timeout=120).returncode:
            # A machine that was never told what Debian has.
            subprocess.run(["apt-get", "update"], check=True, capture_output=True, timeout=300)
            subprocess.run(fetch, cwd=folder, check=True, capture_output=True, timeout=120)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True, capture_output=True, timeout=60)
    return binary
