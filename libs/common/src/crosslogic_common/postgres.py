"""PostgreSQL: a pool that outlives its server, and forward-only migrations."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from importlib.resources.abc import Traversable

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from crosslogic_common.batched.backoff import Backoff
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger

Connection = psycopg.AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]

_MIGRATION_LOCK = 0x63_6C_6D_69  # "clmi": one migration at a time in a database


def connection_arguments(schema: str, *, statement_timeout_ms: int = 10_000) -> dict[str, str | int]:
    """How every connection is opened: in its service's schema, with time limits on server and wire alike."""
    return {
        "options": f"-c search_path={schema} -c statement_timeout={statement_timeout_ms} -c timezone=UTC"
        " -c idle_in_transaction_session_timeout=60000",
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
        "application_name": f"crosslogic-{schema}",
    }


@contextlib.asynccontextmanager
async def open_pool(
    dsn: str, *, schema: str, max_size: int = 10, statement_timeout_ms: int = 10_000
) -> AsyncIterator[Pool]:
    """A pool of at most `max_size` connections. A server that is away is waited for by whoever needs it, 5 s at most."""
    pool: Pool = AsyncConnectionPool(
        dsn,
        kwargs=connection_arguments(schema, statement_timeout_ms=statement_timeout_ms),
        min_size=1,
        max_size=max_size,
        timeout=5.0,
        max_waiting=1000,
        reconnect_timeout=float("inf"),
        check=AsyncConnectionPool.check_connection,
        open=False,
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close()


@contextlib.asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """A connection in a transaction. A database that is away or too slow is UNAVAILABLE, never a stack trace."""
    with database_errors():
        async with pool.connection() as connection, connection.transaction():
            yield connection


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Turns what a dead or slow database raises into UNAVAILABLE."""
    try:
        yield
    except (PoolTimeout, TooManyRequests, psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise CodedError(ErrorCode.UNAVAILABLE, private=f"database: {error}", retry_after_s=1.0) from error


async def notifications(dsn: str, *, schema: str, channel: str) -> AsyncIterator[str | None]:
    """Payloads of NOTIFY on `channel`, for ever. None: the connection is new, and what was sent before it is not known."""
    log = get_logger(__name__)
    backoff = Backoff(cap_s=2.0)
    arguments = connection_arguments(schema, statement_timeout_ms=0)
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, **arguments) as connection:  # type: ignore[arg-type]
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                backoff.reset()
                yield None
                async for notice in connection.notifies():
                    yield notice.payload
        except (psycopg.Error, OSError) as error:
            log.warning("listener lost its database", channel=channel, reason=str(error))
        await asyncio.sleep(backoff.next_s())


class MigrationError(Exception):
    """The schema cannot be brought up to date; the message says why."""


async def migrate(dsn: str, *, schema: str, migrations: Traversable) -> list[str]:
    """Applies the `*.sql` files of `migrations` that `schema` does not have yet, by name, each in a transaction.

    Returns the names applied. Refuses a file that changed after it was applied. Several processes may call it at once.
    """
    files = sorted((file for file in migrations.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    arguments = connection_arguments(schema, statement_timeout_ms=0)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, **arguments) as connection:  # type: ignore[arg-type]
        await connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations "
            "(name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        cursor = await connection.execute("SELECT name, sha256 FROM schema_migrations")
        applied = {str(name): str(digest) for name, digest in await cursor.fetchall()}
        fresh = []
        for file in files:
            text = file.read_text(encoding="utf-8")
            digest = hashlib.sha256(text.encode()).hexdigest()
            if file.name in applied:
                if applied[file.name] != digest:
                    raise MigrationError(
                        f"{schema}: {file.name} changed after it was applied. Migrations are forward-only: "
                        "put the file back and write a new one."
                    )
                continue
            async with connection.transaction():
                await connection.execute(text.encode())
                await connection.execute(
                    "INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", (file.name, digest)
                )
            fresh.append(file.name)
    get_logger(__name__).info("migrated", schema=schema, applied=fresh)
    return fresh
