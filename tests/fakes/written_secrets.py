"""Finds what must never be written, in everything that a suite wrote."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from crosslogic_dev.suite import Suite

LEAST_CHARS = 8
"""A shorter text would be found by chance."""


def meant_to_hold_secrets(suite: Suite) -> frozenset[Path]:
    """What `make up` keeps for its user, each process's own identity, and the password that Redis asks for."""
    run_dir = suite.run_dir
    redis = run_dir.state_dir("redis") / "redis.conf"
    return frozenset({run_dir.env_file, run_dir.path / "secrets", run_dir.tls, redis})


def secrets_of(suite: Suite) -> dict[str, str]:
    """What the suite's own processes know, by what it is."""
    found = {"api key": suite.api_key}
    for file in sorted((suite.run_dir.path / "secrets").iterdir()):
        if file.is_file():
            found[file.name] = file.read_text().strip()
    for name, url in (("database password", suite.database_url), ("redis password", suite.redis_url)):
        password = urlsplit(url).password
        if password:
            found[name] = password
    return {name: text for name, text in found.items() if len(text) >= LEAST_CHARS}


def files_of(suite: Suite) -> Iterator[Path]:
    """Everything that was written and is not meant to hold secrets: logs, states, the databases' files."""
    left_out = meant_to_hold_secrets(suite)
    # Databases make and remove files and folders meanwhile, which a walk does not mind.
    for folder, _, names in os.walk(suite.run_dir.path):
        for name in names:
            file = Path(folder) / name
            if left_out.isdisjoint((file, *file.parents)) and file.is_file() and not file.is_symlink():
                yield file


def found_in(suite: Suite, forbidden: Mapping[str, str]) -> list[tuple[str, str]]:
    """Each file with what stands in it and must not."""
    needles = {name: text.encode() for name, text in forbidden.items()}
    found = []
    for file in files_of(suite):
        try:
            data = file.read_bytes()
        except OSError:
            continue  # a file of the database that went away meanwhile
        name_of_file = str(file.relative_to(suite.run_dir.path))
        found += [(name_of_file, name) for name, needle in needles.items() if needle in data]
    return found
