"""13: accountant and billing die again and again under load; what they had begun is done once, and the books are right.

Each single await is tried by `tests/integration/test_accountant_deaths.py`; here the processes themselves die.
"""

import asyncio

from tests.chaos.checker import check
from tests.chaos.world import World

REQUESTS = 120
DEATHS = 6
AT_ONCE = 24
VICTIMS = ("accountant", "billing")


async def run(world: World) -> None:
    """Requests go on while one after the other dies and comes back."""
    deaths = world.scaled(DEATHS, least=2)
    asked = [world.a_request(number) for number in range(world.scaled(REQUESTS, least=20))]
    waiting = iter(asked)

    async def ask() -> None:
        for each in waiting:
            await world.client.ask(each)

    asking = [asyncio.create_task(ask()) for _ in range(AT_ONCE)]
    for number in range(deaths):
        await asyncio.sleep(world.chance.uniform(0.05, 0.6))
        await asyncio.to_thread(world.suite.restart, VICTIMS[number % len(VICTIMS)])
    await asyncio.gather(*asking)
    await asyncio.to_thread(check, world, asked)
