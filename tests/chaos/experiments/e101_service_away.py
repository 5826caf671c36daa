"""101: registry, scheduler and accountant are each gone for a minute: inference goes on, nothing is lost."""

import asyncio
import time

from tests.chaos.checker import check
from tests.chaos.clients import Asked
from tests.chaos.world import World

SECONDS = 60.0
A_SECOND = 8
FRESH_WITHIN_S = 30.0
SERVICES = ("registry", "scheduler", "accountant")


async def run(world: World) -> None:
    """A steady stream of requests for as long as the service is gone, and a little longer."""
    for name in SERVICES:
        await _without(world, name, max(SECONDS * world.size, 3.0))


async def _without(world: World, name: str, seconds: float) -> None:
    asked: list[Asked] = []
    running: list[asyncio.Task[Asked]] = []
    # Routes are known while the scheduler is away: somebody asked before.
    await world.client.ask(world.a_request(0, max_tokens=2))
    await asyncio.to_thread(world.suite.kill, name)
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            asked.append(world.a_request(len(asked), max_tokens=world.chance.randrange(2, 20)))
            running.append(asyncio.create_task(world.client.ask(asked[-1])))
            await asyncio.sleep(1 / A_SECOND)
    finally:
        await asyncio.to_thread(world.suite.start, name)
    await asyncio.gather(*running)
    began = time.monotonic()
    # Everything that was recorded meanwhile is in the ledger, and what was said of nodes is known again.
    check(world, asked)
    print(
        f"{name} away for {seconds:.0f} s: {len(asked)} requests, {sum(not each.complete for each in asked)} failed, "
        f"slowest {max(each.took_s for each in asked):.2f} s, all in the ledger {time.monotonic() - began:.1f} s after"
    )
    world.wait_active()
    after = [world.a_request(number) for number in range(10)]
    await asyncio.gather(*(world.client.ask(each) for each in after))
    check(world, after)
    assert time.monotonic() - began < FRESH_WITHIN_S + seconds, f"{name} has not caught up"
