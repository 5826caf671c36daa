"""5: two deaths in one stream, which goes on twice; then every node: an error that says when to come back."""

import asyncio

from tests.chaos.checker import check
from tests.chaos.clients import Asked
from tests.chaos.world import STEP_MS, World

STREAMS = 30
TOKENS = 100


async def run(world: World) -> None:
    """Three nodes, two of which die one after the other; then a fleet that is gone."""
    with world.everything_back():
        await _two_deaths(world)
    with world.everything_back():
        await _all_gone(world)


async def _two_deaths(world: World) -> None:
    asked = [world.a_request(number, max_tokens=TOKENS) for number in range(world.scaled(STREAMS, least=9))]
    running = [asyncio.create_task(world.client.ask(each)) for each in asked]
    first, second, *_ = world.chance.sample(world.node_numbers(), len(world.node_numbers()))
    await asyncio.sleep(TOKENS * STEP_MS / 1000 * 0.2)
    await world.kill_node(first)
    await asyncio.sleep(TOKENS * STEP_MS / 1000 * world.chance.uniform(0.2, 0.4))
    await world.kill_node(second)
    await asyncio.gather(*running)
    check(world, asked)


async def _all_gone(world: World) -> None:
    asked = [world.a_request(number, max_tokens=TOKENS) for number in range(world.scaled(STREAMS, least=9))]
    running = [asyncio.create_task(world.client.ask(each)) for each in asked]
    await asyncio.sleep(TOKENS * STEP_MS / 1000 * 0.2)
    await asyncio.gather(*(world.kill_node(number) for number in world.node_numbers()))
    await asyncio.gather(*running)
    refused: list[Asked] = [world.a_request(number) for number in range(4)]
    await asyncio.gather(*(world.client.ask(each) for each in refused))
    # Those that a stop string ended were over before.
    long = [each for each in asked if each.expected.tokens[1] == TOKENS]
    assert not any(each.complete for each in [*long, *refused])
    assert [each.status for each in refused] == [503] * len(refused), [(each.error, each.broke) for each in refused]
    assert all("Retry-After" in each.headers for each in refused), [each.headers for each in refused]
    check(world, [*asked, *refused], may_fail=True)
