"""What identity's use cases need of the world."""

from datetime import datetime
from typing import Protocol

from crosslogic_identity.domain import ApiKey, Changes, Environment, KeyOwner, Org


class Store(Protocol):
    """Tenants and keys, durable. Reads of what is not there return None; writes of it raise NOT_FOUND."""

    async def add_org(self, org: Org, request_id: str) -> Org:
        """Stores an organisation, or returns the one that `request_id` (empty: none) made before."""

    async def org(self, id_: str) -> Org | None:
        """One organisation."""

    async def orgs(self, after: str, limit: int) -> list[Org]:
        """Organisations with greater ids than `after`, by id."""

    async def change_org(self, id_: str, changes: Changes) -> Org:
        """Applies changes and announces the revocation."""

    async def add_environment(self, environment: Environment, request_id: str) -> Environment:
        """Stores an environment, or returns the one that `request_id` made before. ALREADY_EXISTS: the name."""

    async def environment(self, id_: str) -> Environment | None:
        """One environment."""

    async def environments(self, org_id: str, after: str, limit: int) -> list[Environment]:
        """An organisation's environments, by id."""

    async def change_environment(self, id_: str, changes: Changes) -> Environment:
        """Applies changes and announces the revocation. ALREADY_EXISTS: the name."""

    async def add_api_key(self, key: ApiKey, secret_sha256: bytes) -> ApiKey:
        """Stores a key."""

    async def api_key(self, id_: str) -> ApiKey | None:
        """One key."""

    async def api_keys(self, environment_id: str, after: str, limit: int) -> list[ApiKey]:
        """An environment's keys, by id."""

    async def change_api_key(self, id_: str, changes: Changes) -> ApiKey:
        """Applies changes and announces the revocation. CONFLICT: it is revoked."""

    async def revoke_api_key(self, id_: str, now: datetime) -> ApiKey:
        """Ends a key for good and announces it."""

    async def rotate_api_key(
        self, id_: str, successor: ApiKey, secret_sha256: bytes, ends_at: datetime
    ) -> tuple[ApiKey, ApiKey]:
        """Stores the successor and lets the old key end at `ends_at`; returns both, the old one last."""

    async def owner(self, secret_sha256: bytes) -> KeyOwner | None:
        """Who a secret belongs to."""
