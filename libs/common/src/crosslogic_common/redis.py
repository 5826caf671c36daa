"""Redis: always with time limits, so that a hung server costs milliseconds and not requests."""

import contextlib
from collections.abc import AsyncIterator, Iterator

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from crosslogic_common.errors import CodedError, ErrorCode


@contextlib.asynccontextmanager
async def open_redis(
    url: str, *, timeout_s: float = 0.1, connect_timeout_s: float = 0.25, max_connections: int = 32
) -> AsyncIterator[Redis]:
    """A client whose every step is bounded, and which never tries twice: whoever calls it has a way to go on without.

    Waiting for one of `max_connections` and waiting for an answer take at most `timeout_s` each, connecting at most
    `connect_timeout_s`. What goes wrong is a redis.exceptions.RedisError, timeouts too.
    """
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=connect_timeout_s,
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
    )
    client = Redis(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.disconnect()


@contextlib.contextmanager
def redis_errors() -> Iterator[None]:
    """Turns what a dead, hung or full Redis raises into UNAVAILABLE, for callers that cannot go on without it."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise CodedError(ErrorCode.UNAVAILABLE, private=f"redis: {error}", retry_after_s=1.0) from error
