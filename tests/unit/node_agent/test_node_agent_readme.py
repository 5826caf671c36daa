"""The agent's README says what its operators will find."""

from pathlib import Path

import pytest

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.grpc_server import method_names
from crosslogic_common.metrics import Metrics
from crosslogic_node_agent.main import RULES, SERVICE
from crosslogic_node_agent.metrics import AgentMetrics

README = Path(__file__).parents[3] / "services/node_agent/README.md"


@pytest.fixture
def readme() -> str:
    return README.read_text(encoding="utf-8")


def test_every_rpc_has_a_rule_and_is_in_the_readme(readme: str) -> None:
    names = method_names(pb, SERVICE)
    assert sorted(RULES) == sorted(f"/{SERVICE}/{name}" for name in names)
    assert [name for name in names if f"`{name}`" not in readme] == []


def test_every_metric_is_in_the_readme(readme: str) -> None:
    metrics = Metrics()
    AgentMetrics(metrics)
    families = [family for family in metrics.registry.collect() if family.name.startswith("crosslogic_node_")]
    assert families
    names = [f"{family.name}_total" if family.type == "counter" else family.name for family in families]
    assert [name for name in names if f"`{name}`" not in readme] == []
