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
    e21_one_tenant_floods,
    e23_all_refuse,
    e101_service_away,
)
from tests.chaos.world import World

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
        21: e21_one_tenant_floods.run,
        23: e23_all_refuse.run,
        101: e101_service_away.run,
    }
)
