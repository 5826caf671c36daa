"""Writes what everything is made of, as CycloneDX, from the lock and with each package's licence.

    .venv/bin/python scripts/sbom.py dist/sbom.cdx.json          # of all that runs; nothing is fetched
    .venv/bin/python scripts/sbom.py dist/x.json --package crosslogic-gateway

A licence that nobody looked at is an error: docs/supply-chain.md says which ones may be used.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORKSHOP = ("crosslogic-dev", "crosslogic-sim-engine")
"""Ours, and in no image."""
ALLOWED = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "HPND", "ISC", "LGPL-3.0-only", "MIT", "MIT-0", "MPL-2.0"}
    | {"PSF-2.0", "Unlicense", "Zlib"}
)
"""SPDX names. LGPL: used as a library that anybody may replace, which is how pip installs it."""
_SAID = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
_OURS = re.compile(r"crosslogic(-|$)")
_INVALID_HOST = re.compile(r"\?repository_url=.*$")

Json = dict[str, Any]


def licence_of(said: list[str]) -> str:
    """An SPDX expression from what a package's metadata says, the first that means something; empty: nothing does."""
    for words in said:
        name = _SAID.get(words.strip().lower(), words.strip())
        # Of licences to choose from we take one that may be used; of several at once each must be one.
        if any(ALLOWED.issuperset(choice.split(" AND ")) for choice in name.split(" OR ")):
            return name
    return ""


def _said_by(name: str) -> list[str]:
    try:
        found = metadata(name).json
    except PackageNotFoundError:
        return []
    classifiers = [each.rpartition("::")[2] for each in found.get("classifier", ()) if each.startswith("License")]
    return [str(found.get("license_expression", "")), str(found.get("license", "")), *classifiers]


def running() -> list[str]:
    """Our own distributions that run somewhere."""
    files = sorted([*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")])
    names = [str(tomllib.loads(file.read_text())["project"]["name"]) for file in files]
    return [name for name in names if name not in WORKSHOP]


def exported(packages: list[str]) -> Json:
    """Uv's own bill of materials; of everything that runs when no package is named."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "export", "--quiet", "--frozen", "--offline", "--no-cache", "--no-dev"]
    command += ["--preview-features", "sbom-export", "--format", "cyclonedx1.5"]
    command += [part for name in packages or running() for part in ("--package", name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603  # our own words
    made: Json = json.loads(done.stdout)
    return made


def bill(packages: list[str]) -> tuple[Json, list[str]]:
    """The bill of materials, and the packages whose licence is unknown or not allowed here."""
    made = exported(packages)
    unknown = []
    for each in made["components"]:
        if "purl" in each:
            each["purl"] = _INVALID_HOST.sub("", each["purl"])
        each.pop("externalReferences", None)
        if _OURS.match(each["name"]) or not _here(each):
            continue
        licence = licence_of(_said_by(each["name"]))
        if licence:
            each["licenses"] = [{"expression": licence}]
        else:
            unknown.append(each["name"])
    return made, sorted(set(unknown))


def _here(component: Json) -> bool:
    """Whether it is installed here: packages of other systems only have no licence to read."""
    return bool(_said_by(component["name"]))


def main() -> None:
    """Ends with code 1 when a licence is unknown or not allowed."""
    parser = argparse.ArgumentParser(description="Writes a CycloneDX bill of materials.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--package", action="append", default=[], help="only what this one needs (several times)")
    chosen = parser.parse_args()
    made, unknown = bill(chosen.package)
    if unknown:
        sys.exit(f"No licence that is allowed: {', '.join(unknown)} (docs/supply-chain.md)")
    chosen.file.parent.mkdir(parents=True, exist_ok=True)
    chosen.file.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(f"{chosen.file}: {len(made['components'])} components\n")


if __name__ == "__main__":
    main()
