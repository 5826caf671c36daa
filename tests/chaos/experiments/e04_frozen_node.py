"""4: a node is frozen (SIGSTOP) and goes on later: failover within the idle limit; what it says then is not heard."""

import asyncio
import signal

from tests.chaos.checker import check, check_bills
from tests.chaos.world import FIRST_BYTE_TIMEOUT_S, IDLE_TIMEOUT_S, STEP_MS, World

STREAMS = 40
SLACK_S = 6.0
"""What a machine that others use too may add."""


async def run(world: World) -> None:
    """The node wakes up while the streams that it lost still run elsewhere, or after."""
    # Whole answers have one first byte, their last: long ones would not come within the limit anyway.
    asked = [
        world.a_request(number, stream=number % 5 > 0, max_tokens=120 if number % 5 else 40)
        for number in range(world.scaled(STREAMS, least=12))
    ]
    victim = world.chance.choice(world.node_numbers())
    frozen_s = world.chance.uniform(IDLE_TIMEOUT_S + 1, 5 + 85 * world.size**2)
    with world.everything_back():
        running = [asyncio.create_task(world.client.ask(each)) for each in asked]
        await asyncio.sleep(120 * STEP_MS / 1000 * world.chance.uniform(0.1, 0.5))
        await asyncio.to_thread(world.signal_node, victim, signal.SIGSTOP)
        try:
            await asyncio.sleep(frozen_s)
            late = [world.a_request(number, max_tokens=5) for number in range(len(asked), len(asked) + 6)]
            running += [asyncio.create_task(world.client.ask(each)) for each in late]
            await asyncio.sleep(0.5)
        finally:
            await asyncio.to_thread(world.signal_node, victim, signal.SIGCONT)
        await asyncio.gather(*running)
        asked += late
        check(world, asked)
        assert world.ledger.failed_over(each.request_id for each in asked) > 0, "nothing ran on the frozen node"
        slowest_s = max(each.longest_gap_s for each in asked)
        assert slowest_s < max(IDLE_TIMEOUT_S, FIRST_BYTE_TIMEOUT_S) + SLACK_S, f"a client waited {slowest_s:.1f} s"
        # Its witnesses come once it is awake: they change nothing.
        world.wait_active()
        check_bills(world, asked)
