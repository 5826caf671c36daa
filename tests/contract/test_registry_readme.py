"""The registry's README says what its operators will find."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.grpc_server import method_names
from crosslogic_common.settings import describe
from crosslogic_registry.main import JOIN_SERVICE, SERVICE
from crosslogic_registry.observations import Observations
from crosslogic_registry.settings import RegistrySettings

README = Path(__file__).parents[2] / "services/registry/README.md"


@pytest.fixture
def readme() -> str:
    return README.read_text(encoding="utf-8")


def test_every_setting_is_in_the_readme_as_it_is(readme: str) -> None:
    assert describe(RegistrySettings) in readme


def test_every_rpc_is_in_the_readme(readme: str) -> None:
    names = [*method_names(pb, SERVICE), *method_names(pb, JOIN_SERVICE)]
    assert [name for name in names if f"{name}`" not in readme] == []


def test_every_metric_is_in_the_readme(readme: str) -> None:
    registry = CollectorRegistry()
    Observations(registry)
    names = [f"{family.name}_total" if family.type == "counter" else family.name for family in registry.collect()]
    assert names
    assert [name for name in names if f"`{name}" not in readme] == []
