"""The accountant's README says what its operators will find, and its rules are those of the contract."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from crosslogic_accountant.main import RULES
from crosslogic_accountant.metrics import LedgerMetrics
from crosslogic_accountant.settings import AccountantSettings
from crosslogic_common.settings import describe

ROOT = Path(__file__).parents[2]
PROTOS = sorted((ROOT / "protos/crosslogic/accountant/v1").glob("*.proto"))


@pytest.fixture
def readme() -> str:
    return (ROOT / "services/accountant/README.md").read_text(encoding="utf-8")


def test_every_setting_is_in_the_readme_as_it_is(readme: str) -> None:
    assert describe(AccountantSettings) in readme


def test_every_metric_is_in_the_readme(readme: str) -> None:
    registry = CollectorRegistry()
    LedgerMetrics(registry)
    names = [family.name for family in registry.collect()]
    assert names
    assert [name for name in names if name not in readme] == []


def test_who_may_call_is_what_the_contracts_say() -> None:
    said: dict[str, frozenset[str]] = {}
    for proto in PROTOS:
        comment, service = "", ""
        for line in proto.read_text(encoding="utf-8").splitlines():
            text = line.strip()
            if text.startswith("//"):
                comment += " " + text[2:].strip()
                continue
            named = re.match(r"service (\w+) {", text)
            service = named[1] if named else service
            rpc = re.match(r"rpc (\w+)\(", text)
            callers = re.search(r"Callers: ([a-z, ]+)\.", comment)
            if rpc and callers:
                names = callers[1].split(", ")
                said[f"/crosslogic.accountant.v1.{service}/{rpc[1]}"] = frozenset(f"service:{name}" for name in names)
            comment = ""
    assert said == RULES


def test_every_rpc_is_in_the_readme(readme: str) -> None:
    assert [method for method in RULES if f"`{method.rpartition('/')[2]}`" not in readme] == []
