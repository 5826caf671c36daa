"""Redis: always with time limits, so that a hung server costs milliseconds and not requests."""

import contextlib
from collections.abc import AsyncIterator

from redis.asyncio import BlockingConnectionPool, Redis


@contextlib.asynccontextmanager
async def open_redis(url: str, *, timeout_s: float = 0.1, max_connections: int = 32) -> AsyncIterator[Redis]:
    """A client whose every operation ends within `timeout_s`, connecting included; no retries."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        health_check_interval=0,
    )
    client = Redis(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.disconnect()
