"""3: the engine dies between the last token and the usage: billed are the ids that were counted."""

import asyncio

from tests.chaos.checker import check
from tests.chaos.world import World

STREAMS = 40


async def run(world: World) -> None:
    """One engine exits, another cuts the connection, each at the end of streams."""
    asked = [world.a_request(number, stream=True) for number in range(world.scaled(STREAMS, least=9))]
    first, second, *_ = world.chance.sample(world.node_numbers(), len(world.node_numbers()))
    await asyncio.to_thread(world.set_faults, {"die_before_usage": True, "requests": 3}, numbers=[first])
    await asyncio.to_thread(world.set_faults, {"cut_before_usage": True, "requests": 3}, numbers=[second])
    with world.everything_back():
        await asyncio.gather(*(world.client.ask(each, after_s=world.chance.random()) for each in asked))
        world.wait_active()
        await asyncio.to_thread(world.set_faults, {})
        check(world, asked)
