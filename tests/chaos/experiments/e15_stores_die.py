"""15: PostgreSQL killed in mid commit; Redis flushed, killed, paused: unknown commits are resolved, nothing is lost."""

import asyncio
import signal
import time

import redis

from tests.chaos.checker import check
from tests.chaos.world import World

REQUESTS = 120
AT_ONCE = 24
PAUSE_S = 1.5


async def run(world: World) -> None:
    """Requests go on while one store after the other fails, in an order drawn by chance."""
    asked = [world.a_request(number) for number in range(world.scaled(REQUESTS, least=20))]
    waiting = iter(asked)

    async def ask() -> None:
        for each in waiting:
            await world.client.ask(each)

    asking = [asyncio.create_task(ask()) for _ in range(AT_ONCE)]
    for fault in world.chance.sample((_postgres_dies, _redis_forgets, _redis_dies, _redis_hangs), 4):
        await asyncio.sleep(world.chance.uniform(0.05, 0.6))
        await asyncio.to_thread(fault, world)
    await asyncio.gather(*asking)
    await asyncio.to_thread(check, world, asked)


def _postgres_dies(world: World) -> None:
    world.suite.restart("postgres")


def _redis_dies(world: World) -> None:
    world.suite.restart("redis")


def _redis_forgets(world: World) -> None:
    with redis.Redis.from_url(world.suite.redis_url, socket_timeout=5) as client:
        client.flushall()


def _redis_hangs(world: World) -> None:
    world.suite.kill("redis", signal.SIGSTOP)
    try:
        time.sleep(PAUSE_S)
    finally:
        world.suite.kill("redis", signal.SIGCONT)
