"""The Redis client on a real Redis: hung, away, full of callers."""

import asyncio
import time
from urllib.parse import urlsplit

import pytest
from redis.exceptions import RedisError

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.redis import open_redis, redis_errors
from tests.fakes.tcp_proxy import TcpProxy


async def test_hung_redis_costs_its_time_limit_and_the_client_recovers(redis_url: str) -> None:
    parts = urlsplit(redis_url)
    async with TcpProxy(str(parts.hostname), int(parts.port or 6379)) as proxy:
        url = redis_url.replace(f":{parts.port}/", f":{proxy.port}/")
        async with open_redis(url, timeout_s=0.1, connect_timeout_s=0.25) as client:
            await client.set("key", "value")
            proxy.silence()
            slowest_s = 0.0
            for _ in range(5):
                started = time.monotonic()
                with pytest.raises(RedisError):
                    await client.get("key")
                slowest_s = max(slowest_s, time.monotonic() - started)
            assert slowest_s < 2
            proxy.speak()
            await asyncio.sleep(0.1)
            assert await client.get("key") == b"value"


async def test_answer_that_came_too_late_is_never_given_to_the_next_question(redis_url: str) -> None:
    parts = urlsplit(redis_url)
    async with TcpProxy(str(parts.hostname), int(parts.port or 6379)) as proxy:
        url = redis_url.replace(f":{parts.port}/", f":{proxy.port}/")
        async with open_redis(url, timeout_s=0.1, max_connections=1) as client:
            await client.mset({"one": "1", "two": "2"})
            proxy.silence()
            with pytest.raises(RedisError):
                await client.get("one")
            proxy.speak()
            assert await client.get("two") == b"2"


async def test_many_callers_share_a_bounded_pool(redis_url: str) -> None:
    async with open_redis(redis_url, timeout_s=2.0, max_connections=4) as client:
        await client.set("key", "value")
        assert await asyncio.gather(*(client.get("key") for _ in range(500))) == [b"value"] * 500
        assert int((await client.info("clients"))["connected_clients"]) <= 6


async def test_redis_that_is_away_is_unavailable_to_those_who_need_it() -> None:
    async with open_redis("redis://127.0.0.1:1/0") as client:
        with pytest.raises(CodedError) as caught, redis_errors():
            await client.get("key")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert "redis" not in caught.value.public.lower()
