"""2: the same with tools, JSON schemas and what else ids cannot bring back: restarted, or a clean error at no cost."""

import asyncio

from tests.chaos.checker import check
from tests.chaos.world import STEP_MS, World

STREAMS = 60
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
KINDS = ({"tools": [TOOL]}, {"response_format": SCHEMA}, {"response_format": {"type": "json_object"}})


async def run(world: World) -> None:
    """Half of them streamed: those fail where they break; the others begin anew and nobody notices."""
    count = world.scaled(STREAMS, least=16)
    asked = []
    for number in range(count):
        each = world.a_request(number, stream=number % 2 == 0)
        each.body.pop("stop", None)
        each.body |= KINDS[number % len(KINDS)]
        asked.append(each)
    with world.everything_back():
        running = [asyncio.create_task(world.client.ask(each)) for each in asked]
        await asyncio.sleep(world.tokens * STEP_MS / 1000 * world.chance.uniform(0.2, 0.8))
        await world.kill_node(world.chance.choice(world.node_numbers()))
        await asyncio.gather(*running)
        check(world, asked, may_fail=True)
        lost = [each for each in asked if not each.stream and not each.complete]
        assert lost == [], f"whole answers were lost: {[each.error for each in lost[:3]]}"
        assert any(each.complete for each in asked if each.stream), "streams of nodes that live were lost too"
