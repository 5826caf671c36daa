"""Billing's README names every metric."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from crosslogic_billing.metrics import BillingMetrics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def readme() -> str:
    return (ROOT / "services/billing/README.md").read_text(encoding="utf-8")


def test_every_metric_is_in_the_readme(readme: str) -> None:
    registry = CollectorRegistry()
    BillingMetrics(registry)
    names = [family.name for family in registry.collect()]
    assert names
    assert [name for name in names if name not in readme] == []
