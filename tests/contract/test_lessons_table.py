"""Every test that docs/lessons.md promises exists: a renamed one must not leave a promise behind."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LESSONS = ROOT / "docs/lessons.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def _promised() -> list[tuple[str, str]]:
    return NAMED.findall(LESSONS.read_text(encoding="utf-8"))


def test_every_named_test_exists() -> None:
    missing = []
    for file, name in _promised():
        path = ROOT / file
        source = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not re.search(rf"^\s*(?:async )?def {name}\(", source, re.MULTILINE):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_every_lesson_names_a_test() -> None:
    rows = [
        line
        for line in LESSONS.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| what went wrong")
    ]
    assert len(rows) > 20
    assert [row for row in rows if NAMED.search(row) is None] == []
