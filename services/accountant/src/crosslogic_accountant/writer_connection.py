"""The one connection of a writer: opened when needed, thrown away whenever its state is in doubt."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import psycopg

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, connection_arguments

# A database that acknowledges before its disk does would lose what we acknowledge.
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"


class WriterConnection:
    """A connection in autocommit mode for one user at a time."""

    def __init__(self, *, dsn: str, schema: str, timeout_s: float) -> None:
        """`timeout_s` bounds each use, so that a database that hangs is treated like one that is gone."""
        self._dsn = dsn
        self._arguments = connection_arguments(schema, statement_timeout_ms=round(timeout_s * 1000))
        self._timeout_s = timeout_s
        self._connection: Connection | None = None

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """The connection. What says nothing about the rows themselves becomes UNAVAILABLE: try again.

        psycopg.DataError and psycopg.IntegrityError pass: the database refused what it was given.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                yield await self._open()
        except (psycopg.DataError, psycopg.IntegrityError):
            raise
        except (psycopg.Error, OSError, TimeoutError) as error:
            await self.close()
            raise CodedError(ErrorCode.UNAVAILABLE, private=f"database: {error!r}", retry_after_s=1.0) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Closes the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            connection = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True, **self._arguments)  # type: ignore[arg-type]
            self._connection = connection
            await connection.execute(_DURABLE)
        return self._connection
