"""23: every engine answers 503 for a minute: attempts stay within 1.2 of what is offered; soon after all is well."""

import asyncio
import time

from tests.chaos.checker import check
from tests.chaos.clients import Asked
from tests.chaos.world import World

SECONDS = 60.0
A_SECOND = 20
ALWAYS_ALLOWED = 3
WINDOW_S = 10.0
RECOVERED_WITHIN_S = 30.0


async def run(world: World) -> None:
    """A steady stream of requests; afterwards one at a time until twenty in a row succeed."""
    seconds = SECONDS * world.size
    count = world.scaled(SECONDS * A_SECOND, least=20)
    # What was asked for in the window before allows retries too, and would be counted as of this experiment.
    await asyncio.sleep(2 * WINDOW_S)
    before = world.gateway_metric("crosslogic_node_attempts")
    await asyncio.to_thread(world.set_faults, {"status": 503})
    try:
        asked = [world.a_request(number, max_tokens=4) for number in range(count)]
        await asyncio.gather(
            *(world.client.ask(each, after_s=seconds * number / count) for number, each in enumerate(asked))
        )
    finally:
        await asyncio.to_thread(world.set_faults, {})
    attempts = world.gateway_metric("crosslogic_node_attempts") - before
    allowed = 1.2 * count + ALWAYS_ALLOWED * (1 + seconds / WINDOW_S)
    assert attempts <= allowed, f"{attempts:.0f} attempts for {count} requests"
    assert not any(each.complete for each in asked)
    check(world, asked, may_fail=True)
    began = time.monotonic()
    well: list[Asked] = []
    while len(well) < 20:
        each = await world.client.ask(world.a_request(len(well), max_tokens=2))
        well = [*well, each] if each.complete else []
        assert time.monotonic() - began < RECOVERED_WITHIN_S, "requests still fail"
    check(world, well)
