"""A reader who follows a link of ours, or types a make target that a page names, gets somewhere."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
TARGET = re.compile(r"\bmake ([a-z][a-z-]*)")
CODE = re.compile(r"`([^`\n]+)`|```\n(.*?)```", re.DOTALL)


def _pages() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return listed.split()


@pytest.mark.parametrize("page", _pages())
def test_every_link_of_a_page_leads_to_a_file(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in LINK.findall(text) if "://" not in link and not link.startswith("#")]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        (page, target)
        for page in _pages()
        for groups in CODE.findall((ROOT / page).read_text(encoding="utf-8"))
        for code in groups
        for target in TARGET.findall(code)
    }
    assert named
    assert sorted((page, target) for page, target in named if target not in targets) == []
