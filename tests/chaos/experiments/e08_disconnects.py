"""8: clients that leave at random bytes pay what was generated until the engine stopped; places are free again."""

import asyncio
import time
from collections.abc import Iterator

import aiohttp

from crosslogic_dev.processes import resident_bytes
from tests.chaos.checker import check_books
from tests.chaos.oracle import PATHS
from tests.chaos.world import World

DISCONNECTS = 1000
AT_ONCE = 50
FREE_WITHIN_S = 2.0
SLACK_S = 8.0
"""What a machine that others use too may add."""
GROWTH_BYTES = 48 * 1024 * 1024


async def run(world: World) -> None:
    """Each reads some bytes and closes."""
    count = world.scaled(DISCONNECTS, least=40)
    gateway = world.suite.pid("gateway")
    assert gateway is not None
    before = resident_bytes(gateway)
    failovers = world.gateway_metric("crosslogic_failovers")
    ids: list[str] = []
    numbers = iter(range(count))
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(
        connector=connector, headers={"Authorization": f"Bearer {world.suite.api_key}"}, trust_env=False
    ) as session:
        await asyncio.gather(*(_leave(world, session, numbers, ids) for _ in range(min(AT_ONCE, count))))
    left_at = time.monotonic()
    while await asyncio.to_thread(world.sims.running):
        assert time.monotonic() - left_at < FREE_WITHIN_S + SLACK_S, "engines still work for clients that left"
        await asyncio.sleep(0.05)
    free_s, failovers = time.monotonic() - left_at, world.gateway_metric("crosslogic_failovers") - failovers
    print(
        f"{count} clients left: engines were free {free_s:.2f} s after, {failovers:.0f} requests were asked elsewhere"
    )
    assert len(ids) == count
    await asyncio.to_thread(_check_bills, world, ids)
    assert resident_bytes(gateway) - before < GROWTH_BYTES, "the gateway grew"
    await asyncio.to_thread(check_books, world)


async def _leave(world: World, session: aiohttp.ClientSession, numbers: Iterator[int], ids: list[str]) -> None:
    for number in numbers:
        asked = world.a_request(number, stream=True, max_tokens=4000)
        asked.body.pop("stop", None)
        async with session.post(world.suite.base_url + PATHS[asked.api], json=asked.body) as answer:
            assert answer.status == 200
            ids.append(answer.headers["X-CrossLogic-Request-ID"])
            await answer.content.readexactly(world.chance.randrange(1, 6000))
            answer.close()


def _check_bills(world: World, ids: list[str]) -> None:
    entries = world.ledger.holding(ids)
    assert {each: entries[each].times for each in ids if entries[each].times != 1} == {}
    wrong = {}
    for each in ids:
        # More than one where a node was so slow that another took over.
        generated = [(record["prompt_tokens"], record["generated"]) for record in world.sims.each(each)]
        if entries[each].tokens not in generated:
            wrong[each] = entries[each].tokens, generated
    assert wrong == {}, f"billed and generated differ for {len(wrong)} of {len(ids)}: {list(wrong.items())[:3]}"
