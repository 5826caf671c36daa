"""Who may reach whom in the cluster is what the code's caller rules say, and no more."""

import re

from scripts import k8s_network_policies as policies
from tests.fakes.service_settings import variables_of


def test_file_is_what_the_caller_rules_give() -> None:
    assert policies.TARGET.read_text() == policies.text(), "run scripts/k8s_network_policies.py"


def test_every_allowed_call_is_one_that_the_caller_makes() -> None:
    existing = policies.services()
    allowed = {(caller, callee) for callee in existing for caller in policies.callers_of(callee) if caller in existing}
    made = {(caller, callee) for caller in existing for callee in _targets(caller)}
    assert allowed == made


def test_services_that_reach_databases_are_those_with_an_address_for_them() -> None:
    existing = policies.services()
    assert {name for name in existing if "DATABASE_URL" in variables_of(name)} == set(policies.DATABASE_USERS) & set(
        existing
    )
    assert {name for name in existing if "REDIS_URL" in variables_of(name)} == set(policies.REDIS_USERS) & set(existing)


def _targets(service: str) -> set[str]:
    found = re.findall(r"CROSSLOGIC_(\w+?)_TARGET", " ".join(variables_of(service)))
    return {name.lower() for name in found}
