"""The registry's README says what its operators will find."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from crosslogic_registry.observations import Observations

README = Path(__file__).parents[2] / "services/registry/README.md"


@pytest.fixture
def readme() -> str:
    return README.read_text(encoding="utf-8")


def test_every_metric_is_in_the_readme(readme: str) -> None:
    registry = CollectorRegistry()
    Observations(registry)
    names = [f"{family.name}_total" if family.type == "counter" else family.name for family in registry.collect()]
    assert names
    assert [name for name in names if f"`{name}" not in readme] == []
