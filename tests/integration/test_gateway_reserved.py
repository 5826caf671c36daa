"""Reserved capacity in a real Redis: one bucket for all workers, by Redis's own clock."""

import asyncio

from crosslogic_common.redis import open_redis
from crosslogic_gateway.shedding.reserved import RedisBuckets, ReservedMeters

UNITS = 1_000
BUSY_S = 10.0
"""A busy machine must not look like a Redis that is away."""


async def test_workers_together_get_what_is_reserved_and_no_more(redis_url: str) -> None:
    loop = asyncio.get_running_loop()
    async with open_redis(redis_url, timeout_s=BUSY_S) as redis:
        workers = [ReservedMeters(RedisBuckets(redis, budget_s=BUSY_S), now=loop.time, workers=4) for _ in range(4)]
        began = loop.time()
        tokens = 0

        async def use(meters: ReservedMeters) -> None:
            nonlocal tokens
            while loop.time() - began < 1.0:
                taken = await meters.take("acme", "m", UNITS, 4096)
                if taken is None:
                    await asyncio.sleep(0.005)
                else:
                    ReservedMeters.settle(*taken, 100)
                    tokens += 100

        await asyncio.gather(*(use(meters) for meters in workers for _ in range(3)))
        elapsed_s = loop.time() - began
    # Ten seconds are saved up; four workers may each be one request ahead, and hold a lease.
    assert 10_000 * 0.95 <= tokens <= (10 + elapsed_s) * UNITS + 4 * 300
    assert not any(meters.away for meters in workers)


async def test_what_is_given_back_is_there_again_and_never_more_than_the_bucket_holds(redis_url: str) -> None:
    async with open_redis(redis_url, timeout_s=BUSY_S) as redis:
        buckets = RedisBuckets(redis, budget_s=BUSY_S)
        assert await buckets.take("acme", "m", units=10, wanted=80) == (80, 0.0)
        granted, _ = await buckets.take("acme", "m", units=10, wanted=80)
        assert 20 <= granted <= 40
        empty, wait_s = await buckets.take("acme", "m", units=10, wanted=1)
        assert (empty, 0 < wait_s <= 0.2) in ((0, True), (1, False))
        await buckets.take("acme", "m", units=10, wanted=-500)
        granted, _ = await buckets.take("acme", "m", units=10, wanted=500)
        assert granted == 100
        (name,) = [key async for key in redis.scan_iter("reserved:*")]
        assert name == b"reserved:{acme}:m"
        assert 0 < await redis.pttl(name) <= 70_000
