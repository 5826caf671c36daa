"""What identity's use cases need of the world."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from crosslogic_identity.audit import AuditEntry, AuditRecord, Head
from crosslogic_identity.domain import (
    Actor,
    ApiKey,
    Environment,
    EnvironmentChanges,
    KeyChanges,
    KeyOwner,
    Org,
    OrgChanges,
    Plan,
    PlanChanges,
    User,
    UserChanges,
)


class TenantStore(Protocol):
    """Tenants and keys, durable. Reads of what is not there return None; writes of it raise NOT_FOUND.

    Every write of this and of the next stores writes its audit record, `by` whom, in the same transaction. `cut` asks
    that streams under way end with the suspension or revocation.
    """

    async def add_org(self, org: Org, request_id: str, by: Actor) -> Org:
        """Stores an organisation, or returns the one that `request_id` (empty: none) made before.

        INVALID_ARGUMENT: the plan is not there.
        """

    async def org(self, id_: str) -> Org | None:
        """One organisation."""

    async def orgs(self, after: str, limit: int) -> list[Org]:
        """Organisations with greater ids than `after`, by id."""

    async def change_org(self, id_: str, changes: OrgChanges, by: Actor, *, cut: bool = False) -> Org:
        """Applies changes and announces the revocation. INVALID_ARGUMENT: the plan is not there."""

    async def add_environment(self, environment: Environment, request_id: str, by: Actor) -> Environment:
        """Stores an environment, or returns the one that `request_id` made before. ALREADY_EXISTS: the name."""

    async def environment(self, id_: str) -> Environment | None:
        """One environment."""

    async def environments(self, org_id: str, after: str, limit: int) -> list[Environment]:
        """An organisation's environments, by id."""

    async def change_environment(
        self, id_: str, changes: EnvironmentChanges, by: Actor, *, cut: bool = False
    ) -> Environment:
        """Applies changes and announces the revocation. ALREADY_EXISTS: the name."""

    async def add_api_key(self, key: ApiKey, secret_sha256: bytes, by: Actor) -> ApiKey:
        """Stores a key."""

    async def api_key(self, id_: str) -> ApiKey | None:
        """One key."""

    async def api_keys(self, environment_id: str, after: str, limit: int) -> list[ApiKey]:
        """An environment's keys, by id."""

    async def change_api_key(self, id_: str, changes: KeyChanges, by: Actor, *, cut: bool = False) -> ApiKey:
        """Applies changes and announces the revocation. CONFLICT: it is revoked."""

    async def revoke_api_key(self, id_: str, now: datetime, by: Actor, *, cut: bool = False) -> ApiKey:
        """Ends a key for good and announces it."""

    async def rotate_api_key(
        self,
        id_: str,
        successor: ApiKey,
        secret_sha256: bytes,
        ends_at: datetime,
        by: Actor,
        *,
        cut: bool = False,
    ) -> tuple[ApiKey, ApiKey]:
        """Stores the successor and lets the old key end at `ends_at`; returns both, the old one last."""

    async def owner(self, secret_sha256: bytes) -> KeyOwner | None:
        """Who a secret belongs to."""


class PlanStore(Protocol):
    """Plans, durable."""

    async def add_plan(self, plan: Plan, by: Actor) -> Plan:
        """Stores a plan. ALREADY_EXISTS: the name."""

    async def plan(self, name: str) -> Plan | None:
        """One plan."""

    async def plans(self, after: str, limit: int) -> list[Plan]:
        """Plans with greater names than `after`, by name."""

    async def change_plan(self, name: str, changes: PlanChanges, by: Actor) -> Plan:
        """Applies changes and announces them."""


class UserStore(Protocol):
    """Users, durable. An empty `org_id` is the platform's."""

    async def add_user(self, user: User, by: Actor) -> User:
        """Stores a user. ALREADY_EXISTS: the email, there. NOT_FOUND: the organisation."""

    async def user(self, id_: str) -> User | None:
        """One user."""

    async def users(self, org_id: str, after: str, limit: int) -> list[User]:
        """An organisation's users, by id."""

    async def change_user(self, id_: str, changes: UserChanges, by: Actor) -> User:
        """Applies changes."""

    async def remove_user(self, id_: str, by: Actor) -> User:
        """Removes a user; returns it as it was."""

    async def signed_in(self, issuer: str, subject: str, email: str, by: Actor, limit: int) -> list[User]:
        """A person's active users, by id: those of the subject, and those of the email that no subject has taken.

        The latter are the subject's from now on. An empty email finds none.
        """


class AuditStore(Protocol):
    """The audit log."""

    async def record(self, entry: AuditEntry) -> AuditRecord:
        """Writes one record."""

    async def records(
        self, *, before_seq: int, limit: int, org_id: str = "", object_id: str = "", action: str = ""
    ) -> list[AuditRecord]:
        """Records with smaller numbers than `before_seq`, newest first; of one organisation, thing or action."""

    async def span(self, from_seq: int, up_to_seq: int) -> tuple[Sequence[AuditRecord], Head]:
        """The records `from_seq` to `up_to_seq` by number, and the newest one's number, all of one moment."""
