"""PostgreSQL: a pool that outlives its server, and forward-only migrations."""

import asyncio
import contextlib
import hashlib
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator
from importlib.resources.abc import Traversable

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from crosslogic_common.batched.backoff import Backoff
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_common.process import StartError

Connection = psycopg.AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]

_MIGRATION_LOCK = 0x63_6C_6D_69  # "clmi": one migration at a time in a database
_MIGRATION_LOCK_WAIT_S = 120
_MIGRATION_NAME = re.compile(r"[0-9]{4}_[a-z0-9_]+\.sql")
_CHECK_S = 1.0
_READ_LATE_S = 0.1
_CANCEL_S = 1.0
_GIVE_UP_CONNECTING_S = 2.0


class _PromptConnection(psycopg.AsyncConnection[TupleRow]):
    """Lets a cancelled caller go after a second, not five, when the server does not answer the request to cancel."""

    async def cancel_safe(self, *, timeout: float = _CANCEL_S) -> None:
        """As psycopg's, within `timeout` or a second, whichever is less."""
        await super().cancel_safe(timeout=min(timeout, _CANCEL_S))


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
    dsn: str, *, schema: str, max_size: int = 10, statement_timeout_ms: int = 10_000, wait_s: float = 5.0
) -> AsyncIterator[Pool]:
    """A pool of at most `max_size` connections.

    A server that is away is waited for by whoever needs it, `wait_s` at most; it may be away when the pool is opened.
    At most 1,000 wait at a time.
    """
    pool: Pool = AsyncConnectionPool(
        dsn,
        connection_class=_PromptConnection,
        kwargs=connection_arguments(schema, statement_timeout_ms=statement_timeout_ms),
        min_size=1,
        max_size=max_size,
        timeout=wait_s,
        max_waiting=1000,
        # The pool doubles its waits between attempts without a cap: given ten minutes of outage, its next attempt would
        # come ten minutes after it. So it gives up soon, and whoever needs a connection next starts it afresh.
        reconnect_timeout=_GIVE_UP_CONNECTING_S,
        check=_check,
        open=False,
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close()


@contextlib.asynccontextmanager
async def transaction(pool: Pool, *, timeout_s: float = 15.0) -> AsyncIterator[Connection]:
    """A connection in a transaction. A database that is away, too slow or hung is UNAVAILABLE, never a stack trace.

    The connection is cut `timeout_s` after it was had. Whether a commit that was cut took effect is not known: repeat
    it only where it is idempotent.
    """
    with database_errors():
        async with pool.connection() as connection:
            with _cut_after(connection, timeout_s):
                async with connection.transaction():
                    yield connection


async def _check(connection: Connection) -> None:
    with _cut_after(connection, _CHECK_S):
        await AsyncConnectionPool.check_connection(connection)


@contextlib.contextmanager
def _cut_after(connection: Connection, timeout_s: float) -> Iterator[None]:
    """Breaks the connection's socket when the block takes longer.

    Limits set on the server do nothing when it is the server that hangs, and cancelling a psycopg call waits for the
    server to agree. A broken socket ends both.
    """
    loop = asyncio.get_running_loop()

    def late() -> None:
        # Where it was this process that stood still, the answer is there, and is read before this time is over.
        timers.append(loop.call_later(_READ_LATE_S, _cut, connection))

    timers = [loop.call_later(timeout_s, late)]
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _cut(connection: Connection) -> None:
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Turns what a dead or slow database raises into UNAVAILABLE."""
    try:
        yield
    except (PoolTimeout, TooManyRequests, psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise CodedError(ErrorCode.UNAVAILABLE, private=f"database: {error}", retry_after_s=1.0) from error


async def notifications(dsn: str, *, schema: str, channel: str) -> AsyncIterator[str | None]:
    """Payloads of NOTIFY on `channel`, for ever.

    None: the connection is new, and what was sent before it is not known.
    """
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


class MigrationError(StartError):
    """The schema cannot be brought up to date; the message says why."""


async def migrate(dsn: str, *, schema: str, migrations: Traversable, wait_s: float = 60.0) -> list[str]:
    """Applies the `*.sql` files of `migrations` that `schema` does not have yet, by name, each in a transaction.

    Returns the names applied. Several processes may call it at once; a server that is away is waited for, `wait_s` at
    most. Raises MigrationError for a file that changed after it was applied, one that sorts before an applied one, a
    name that is not `0001_what_it_does.sql`, or SQL that fails (nothing of that file is kept).
    """
    files = _migration_files(schema, migrations)
    connection = await _connect_within(dsn, schema=schema, wait_s=wait_s)
    async with connection:
        try:
            applied = await _lock_and_read(connection, schema)
        except psycopg.Error as error:
            raise MigrationError(f"{schema}: cannot begin to migrate: {error}") from error
        fresh = _to_apply(schema, files, applied)
        for name in fresh:
            text = files[name]
            try:
                async with connection.transaction():
                    await connection.execute(text.encode())
                    await connection.execute(
                        "INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", (name, _digest(text))
                    )
            except psycopg.Error as error:
                raise MigrationError(f"{schema}: {name} failed and was rolled back: {error}") from error
    get_logger(__name__).info("migrated", schema=schema, applied=fresh)
    return fresh


async def waiting_migrations(dsn: str, *, schema: str, migrations: Traversable, wait_s: float = 5.0) -> list[str]:
    """Which of the files `migrate` would apply; changes nothing. Raises MigrationError as it does."""
    files = _migration_files(schema, migrations)
    connection = await _connect_within(dsn, schema=schema, wait_s=wait_s)
    async with connection:
        try:
            applied = await _read_applied(connection)
        except psycopg.errors.UndefinedTable:
            applied = {}
        except psycopg.Error as error:
            raise MigrationError(f"{schema}: cannot read what was applied: {error}") from error
    return _to_apply(schema, files, applied)


def _migration_files(schema: str, migrations: Traversable) -> dict[str, str]:
    names = sorted(file.name for file in migrations.iterdir() if file.name.endswith(".sql"))
    for name in names:
        if not _MIGRATION_NAME.fullmatch(name):
            raise MigrationError(f"{schema}: {name} is not named like 0001_what_it_does.sql")
    numbers = [name[:4] for name in names]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise MigrationError(f"{schema}: two migrations have the number {', '.join(twice)}")
    return {name: (migrations / name).read_text(encoding="utf-8") for name in names}


async def _connect_within(dsn: str, *, schema: str, wait_s: float) -> Connection:
    arguments = connection_arguments(schema, statement_timeout_ms=0)
    loop = asyncio.get_running_loop()
    give_up = loop.time() + wait_s
    backoff = Backoff(base_s=0.1, cap_s=2.0)
    log = get_logger(__name__)
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, **arguments)  # type: ignore[arg-type]
            break
        except psycopg.OperationalError as error:
            if loop.time() >= give_up:
                raise MigrationError(f"{schema}: the database was away for {wait_s:g} s: {error}") from error
            log.warning("waiting for the database", schema=schema, reason=str(error))
        await asyncio.sleep(backoff.next_s())
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        await connection.close()
        # Text of a database in SQL_ASCII comes as bytes, and no other holds every name.
        raise MigrationError(
            f"{schema}: the database's encoding is {encoding}, and must be UTF8: make it anew with "
            "`createdb --encoding=UTF8 --template=template0`."
        )
    return connection


async def _lock_and_read(connection: Connection, schema: str) -> dict[str, str]:
    # The lock is the session's: it goes when the connection does.
    await connection.execute(f"SET lock_timeout = '{_MIGRATION_LOCK_WAIT_S}s'")
    await connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
    await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations "
        "(name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    return await _read_applied(connection)


async def _read_applied(connection: Connection) -> dict[str, str]:
    cursor = await connection.execute("SELECT name, sha256 FROM schema_migrations")
    return {str(name): str(digest) for name, digest in await cursor.fetchall()}


def _to_apply(schema: str, files: dict[str, str], applied: dict[str, str]) -> list[str]:
    for name, text in files.items():
        if applied.get(name, _digest(text)) != _digest(text):
            raise MigrationError(
                f"{schema}: {name} changed after it was applied. Migrations are forward-only: "
                "put the file back and write a new one."
            )
    fresh = [name for name in files if name not in applied]
    latest = max(applied, default="")
    late = [name for name in fresh if name < latest]
    if late:
        raise MigrationError(f"{schema}: {late[0]} comes before {latest}, which is applied: give it a later number.")
    return fresh


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
