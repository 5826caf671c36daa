"""Each service's README says what its operators will find, and its rules are those of its contract."""

from collections.abc import Mapping
from pathlib import Path

import pytest

import crosslogic_accountant.main
import crosslogic_billing.main
import crosslogic_identity.main
import crosslogic_node_agent.main
import crosslogic_orchestrator.main
import crosslogic_registry.main
import crosslogic_scheduler.main
from crosslogic_accountant.settings import AccountantSettings
from crosslogic_billing.settings import BillingSettings
from crosslogic_common.settings import Settings, describe
from crosslogic_gateway.settings import GatewaySettings
from crosslogic_identity.settings import IdentitySettings
from crosslogic_node_agent.settings import NodeAgentSettings
from crosslogic_orchestrator.settings import OrchestratorSettings
from crosslogic_registry.settings import RegistrySettings
from crosslogic_scheduler.settings import SchedulerSettings
from tests.fakes.contract_callers import callers_in_contract

SERVICES = Path(__file__).parents[2] / "services"
SETTINGS: Mapping[str, type[Settings]] = {
    "accountant": AccountantSettings,
    "billing": BillingSettings,
    "gateway": GatewaySettings,
    "identity": IdentitySettings,
    "node_agent": NodeAgentSettings,
    "orchestrator": OrchestratorSettings,
    "registry": RegistrySettings,
    "scheduler": SchedulerSettings,
}
RULES = {
    "accountant": crosslogic_accountant.main.RULES,
    "billing": crosslogic_billing.main.rules(),
    "identity": crosslogic_identity.main.rules(),
    "node_agent": crosslogic_node_agent.main.RULES,
    "orchestrator": crosslogic_orchestrator.main.rules(),
    "registry": crosslogic_registry.main.RULES,
    "scheduler": crosslogic_scheduler.main.RULES,
}


def readme(service: str) -> str:
    return (SERVICES / service / "README.md").read_text(encoding="utf-8")


def test_no_service_is_left_out() -> None:
    assert sorted(SETTINGS) == sorted(folder.parent.name for folder in SERVICES.glob("*/README.md"))
    assert {*RULES, "gateway"} == set(SETTINGS)


@pytest.mark.parametrize("service", SETTINGS)
def test_every_setting_is_in_the_readme_as_it_is(service: str) -> None:
    assert describe(SETTINGS[service]) in readme(service)


@pytest.mark.parametrize("service", RULES)
def test_who_may_call_is_what_the_contract_says(service: str) -> None:
    served = {rule.rpartition("/")[0] for rule in RULES[service]}
    said = callers_in_contract(service)
    assert {rule: callers for rule, callers in said.items() if rule.rpartition("/")[0] in served} == RULES[service]


@pytest.mark.parametrize("service", RULES)
def test_every_rpc_is_in_the_readme(service: str) -> None:
    methods = [rule.rpartition("/")[2] for rule in RULES[service]]
    assert [method for method in methods if f"{method}`" not in readme(service)] == []
