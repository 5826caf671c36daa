"""Users in PostgreSQL: all their SQL."""

from dataclasses import replace

from psycopg import errors

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction
from crosslogic_identity.audit_store import append
from crosslogic_identity.domain import Actor, User, UserChanges
from crosslogic_identity.entries import entry_of
from crosslogic_identity.rows import USERS
from crosslogic_identity.store import known, now, one


class PostgresUserStore:
    """Implements ports.UserStore."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add_user(self, user: User, by: Actor) -> User:
        """See ports.UserStore."""
        try:
            async with transaction(self._pool) as connection:
                await connection.execute(USERS.insert("users"), USERS.values(user))
                await append(connection, entry_of(by, "user.create", None, user))
                return user
        except errors.UniqueViolation:
            raise CodedError(ErrorCode.ALREADY_EXISTS, "That person has been let in already.") from None
        except errors.ForeignKeyViolation:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such organisation.") from None

    async def user(self, id_: str) -> User | None:
        """See ports.UserStore."""
        async with transaction(self._pool) as connection:
            return await one(connection, USERS, "users", id_)

    async def users(self, org_id: str, after: str, limit: int) -> list[User]:
        """See ports.UserStore."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                f"SELECT {USERS.selected('u')} FROM users u WHERE u.org_id IS NOT DISTINCT FROM %s::uuid "
                "AND u.id > %s ORDER BY u.id LIMIT %s",
                (org_id or None, after, limit),
            )
            return [USERS.read(row) for row in await cursor.fetchall()]

    async def change_user(self, id_: str, changes: UserChanges, by: Actor) -> User:
        """See ports.UserStore."""
        async with transaction(self._pool) as connection:
            before = known(await one(connection, USERS, "users", id_, lock=True))
            after = replace(before, **changes.values(), updated_at=await now(connection))
            await connection.execute(USERS.update("users"), USERS.values(after))
            await append(connection, entry_of(by, "user.update", before, after))
            return after

    async def remove_user(self, id_: str, by: Actor) -> User:
        """See ports.UserStore."""
        async with transaction(self._pool) as connection:
            before = known(await one(connection, USERS, "users", id_, lock=True))
            await connection.execute("DELETE FROM users WHERE id = %s", (id_,))
            await append(connection, entry_of(by, "user.delete", before, None))
            return before

    async def signed_in(self, issuer: str, subject: str, email: str, by: Actor, limit: int) -> list[User]:
        """See ports.UserStore. Two reads by index; it writes on a first sign-in only."""
        async with transaction(self._pool) as connection:
            if email:
                await self._bind(connection, issuer, subject, email, by)
            cursor = await connection.execute(
                f"SELECT {USERS.selected('u')} FROM users u WHERE u.subject = %s AND u.issuer = %s "
                "AND u.status = 'active' ORDER BY u.id LIMIT %s",
                (subject, issuer, limit),
            )
            return [USERS.read(row) for row in await cursor.fetchall()]

    async def _bind(self, connection: Connection, issuer: str, subject: str, email: str, by: Actor) -> None:
        cursor = await connection.execute(
            f"SELECT {USERS.selected('u')} FROM users u WHERE u.email = %s AND u.subject = '' AND u.status = 'active' "
            "ORDER BY u.id FOR UPDATE",
            (email,),
        )
        for before in [USERS.read(row) for row in await cursor.fetchall()]:
            after = replace(before, issuer=issuer, subject=subject, updated_at=await now(connection))
            await connection.execute(USERS.update("users"), USERS.values(after))
            await append(connection, entry_of(replace(by, id=after.id), "user.bind", before, after))
