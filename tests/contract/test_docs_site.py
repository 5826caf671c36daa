"""The documentation as a site: every page can be found, every link into a page arrives, what is marked runnable runs.

A block is marked by the line `<!-- runnable -->` before it. It runs in the repository's root, after `make venv`.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*DOCS.rglob("*.md"), ROOT / "README.md", *ROOT.glob("libs/*/README.md"), *ROOT.glob("services/*/README.md")]
)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
INTO = re.compile(r"\]\(([^)\s#]*)#([^)\s]+)\)")
RUNNABLE = re.compile(r"<!-- runnable -->\n```[a-z]*\n(.*?)```", re.DOTALL)
FENCED = re.compile(r"```.*?```", re.DOTALL)


def slugs(page: Path) -> set[str]:
    """What headings are called in links, as GitHub and MkDocs name them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in HEADING.findall(text)}


def in_nav(entries: Any) -> set[str]:
    if isinstance(entries, str):
        return {entries}
    parts = entries.values() if isinstance(entries, dict) else entries
    return set().union(*map(in_nav, parts))


def test_pages_of_the_sites_navigation_are_there() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    missing = {page for page in in_nav(site["nav"]) if not (DOCS / page).is_file()}
    assert missing == set()


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_into_a_page_arrives_at_a_heading(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    missing = []
    for target, anchor in INTO.findall(text):
        file = (ROOT / page).parent / target if target else ROOT / page
        if "://" not in target and file.suffix == ".md" and anchor not in slugs(file):
            missing.append(f"{target}#{anchor}")
    assert missing == []


def runnable() -> list[tuple[str, str]]:
    return [(str(page.relative_to(ROOT)), block) for page in PAGES for block in RUNNABLE.findall(page.read_text())]


@pytest.mark.parametrize(("page", "block"), runnable())
def test_commands_that_are_marked_runnable_run(page: str, block: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{page}: {block}\n{done.stdout}\n{done.stderr}"


def test_some_commands_are_marked() -> None:
    assert len({page for page, _ in runnable()}) >= 4
