"""The experiments by their numbers. A new one: a module with `run(world)`, and a line here."""

from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Final

from tests.chaos.experiments import (
    e01_kill_at_each_token,
    e02_structured_answers,
    e03_death_before_usage,
    e04_frozen_node,
    e05_deaths_in_a_row,
    e06_spot_notices,
    e07_mass_silence,
    e08_disconnects,
    e09_slow_readers,
    e13_money_processes_die,
    e15_stores_die,
    e17_books_and_oracle,
    e20_webhooks_inside,
    e21_one_tenant_floods,
    e23_all_refuse,
    e101_service_away,
    e102_network,
)
from tests.chaos.world import World

_LAST_DOLLAR: Final = "test_requests_that_come_together_never_pass_a_hard_budget"
_ROTATION: Final = "test_certificates_are_rotated_under_load_without_a_failed_request"

EXPERIMENTS: Final = MappingProxyType[int, Callable[[World], Awaitable[None]]](
    {
        1: e01_kill_at_each_token.run,
        2: e02_structured_answers.run,
        3: e03_death_before_usage.run,
        4: e04_frozen_node.run,
        5: e05_deaths_in_a_row.run,
        6: e06_spot_notices.run,
        7: e07_mass_silence.run,
        8: e08_disconnects.run,
        9: e09_slow_readers.run,
        13: e13_money_processes_die.run,
        15: e15_stores_die.run,
        17: e17_books_and_oracle.run,
        20: e20_webhooks_inside.run,
        21: e21_one_tenant_floods.run,
        23: e23_all_refuse.run,
        101: e101_service_away.run,
        102: e102_network.run,
    }
)

# Faults that are tried by tests of their own: with a faked clock, on real vLLM, or against the bare protocol.
AS_TESTS: Final = MappingProxyType[int, tuple[str, ...]](
    {
        10: ("tests/integration/test_billing_export.py",),
        11: ("tests/integration/test_billing_export.py",),
        12: ("tests/integration/test_billing_webhooks.py",),
        14: ("tests/integration/test_accountant_money.py", "tests/e2e/test_e2e_admission.py::" + _LAST_DOLLAR),
        16: ("tests/integration/test_accountant_price_change.py", "tests/integration/test_billing_chaos.py"),
        18: ("tests/e2e/test_e2e_bad_input.py",),
        19: ("tests/e2e/test_e2e_security.py", "tests/unit/gateway_admin/test_admin_access.py"),
        22: ("tests/e2e/test_e2e_operations.py::" + _ROTATION, "tests/integration/test_node_agent_process.py"),
        24: ("tests/contract/test_engine_cache_salt.py",),
    }
)
