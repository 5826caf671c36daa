"""Orchestrator's README says what its operators will find, and its rules are those of the contract."""

import re
from pathlib import Path

import pytest

from crosslogic_common.settings import describe
from crosslogic_orchestrator.main import SERVICE, rules
from crosslogic_orchestrator.settings import OrchestratorSettings

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "protos/crosslogic/orchestrator/v1/orchestrator.proto"


@pytest.fixture
def readme() -> str:
    return (ROOT / "services/orchestrator/README.md").read_text(encoding="utf-8")


def test_every_setting_is_in_the_readme_as_it_is(readme: str) -> None:
    assert describe(OrchestratorSettings) in readme


def test_who_may_call_is_what_the_contract_says(readme: str) -> None:
    said: dict[str, frozenset[str]] = {}
    comment = ""
    for line in PROTO.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("//"):
            comment += " " + text[2:].strip()
            continue
        rpc = re.match(r"rpc (\w+)\(", text)
        callers = re.search(r"Callers: ([a-z, ]+)\.", comment)
        if rpc and callers:
            said[f"/{SERVICE}/{rpc[1]}"] = frozenset(f"service:{name}" for name in callers[1].split(", "))
            assert f"`{rpc[1]}`" in readme
        comment = ""
    assert said == rules()
