"""1: SIGKILL of a node while streams are at each of their tokens: 0 client errors, text as undisturbed, billed once."""

import asyncio

from tests.chaos.checker import check
from tests.chaos.world import STEP_MS, World

STREAMS = 200


async def run(world: World) -> None:
    """Streams begin one after the other, so that the kill finds each at another token."""
    count = world.scaled(STREAMS, least=world.tokens)
    asked = [world.a_request(number) for number in range(count)]
    span_s = world.tokens * STEP_MS / 1000
    victim = world.chance.choice(world.node_numbers())
    with world.everything_back():
        running = [
            asyncio.create_task(world.client.ask(each, after_s=span_s * number / count))
            for number, each in enumerate(asked)
        ]
        await asyncio.sleep(span_s * world.chance.uniform(0.7, 1.0))
        if world.chance.random() < 0.5:
            await world.kill_node(victim)
        else:
            await asyncio.to_thread(world.suite.kill, f"engine-{victim}")
        await asyncio.gather(*running)
        check(world, asked)
        assert world.ledger.failed_over(each.request_id for each in asked) > 0, "the kill hit nothing"
