"""The use cases of users: who may administer what."""

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_identity import checks
from crosslogic_identity.domain import Actor, Role, User, UserChanges
from crosslogic_identity.ports import TenantStore, UserStore
from crosslogic_identity.service import found

MAX_PLACES = 100
MAX_ISSUER = 500
MAX_SUBJECT = 300


class Users:
    """People and their roles. An empty organisation is the platform."""

    def __init__(self, *, store: UserStore, tenants: TenantStore, clock: Clock, ids: Uuid7Source) -> None:
        self._store = store
        self._tenants = tenants
        self._clock = clock
        self._ids = ids

    async def create(self, org_id: str, email: str, name: str, role: Role, by: Actor) -> User:
        """Lets a person in. ALREADY_EXISTS: the email, there. NOT_FOUND: the organisation."""
        now = self._clock.now()
        user = User(
            id=str(self._ids.next()),
            org_id=org_id,
            email=checks.email(email),
            name=checks.name("user", name),
            role=role,
            status="active",
            issuer="",
            subject="",
            created_at=now,
            updated_at=now,
        )
        return await self._store.add_user(user, by)

    async def user(self, id_: str) -> User:
        """One user."""
        return found(await self._store.user(id_))

    async def users(self, org_id: str, after: str, limit: int) -> list[User]:
        """An organisation's users. NOT_FOUND: the organisation."""
        if org_id:
            found(await self._tenants.org(org_id))
        return await self._store.users(org_id, after, limit)

    async def change(self, id_: str, changes: UserChanges, by: Actor) -> User:
        """Changes a user."""
        if changes.name is not None:
            checks.name("user", changes.name)
        return await self._store.change_user(id_, changes, by)

    async def remove(self, id_: str, by: Actor) -> User:
        """Removes a user."""
        return await self._store.remove_user(id_, by)

    async def resolve(self, issuer: str, subject: str, confirmed_email: str, by: Actor) -> list[User]:
        """Every active place of a person who signed in. PERMISSION_DENIED: none."""
        checks.short("issuer", issuer, 1, MAX_ISSUER)
        checks.short("subject", subject, 1, MAX_SUBJECT)
        email = checks.email(confirmed_email) if confirmed_email else ""
        places = await self._store.signed_in(issuer, subject, email, by, MAX_PLACES)
        if not places:
            raise CodedError(ErrorCode.PERMISSION_DENIED, "You are signed in, but nobody has let you in here.")
        return places
