"""Billing's README says what its operators will find, and its rules are those of the contract."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from crosslogic_billing.main import SERVICE, rules
from crosslogic_billing.metrics import BillingMetrics
from crosslogic_billing.settings import BillingSettings
from crosslogic_common.settings import describe

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "protos/crosslogic/billing/v1/billing.proto"


@pytest.fixture
def readme() -> str:
    return (ROOT / "services/billing/README.md").read_text(encoding="utf-8")


def test_every_setting_is_in_the_readme_as_it_is(readme: str) -> None:
    assert describe(BillingSettings) in readme


def test_every_metric_is_in_the_readme(readme: str) -> None:
    registry = CollectorRegistry()
    BillingMetrics(registry)
    names = [family.name for family in registry.collect()]
    assert names
    assert [name for name in names if name not in readme] == []


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
