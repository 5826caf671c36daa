"""The use cases of identity."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_identity import policy
from crosslogic_identity.domain import ApiKey, Changes, Environment, KeyOwner, Kind, Org
from crosslogic_identity.ports import Store

Found = TypeVar("Found")

MAX_OVERLAP_S = 30 * 24 * 3600


class IdentityService:
    """Tenants and keys."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        ids: Uuid7Source,
        random_hex: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        """`random_hex(n)` is n cryptographically random bytes in hexadecimal."""
        self._store = store
        self._clock = clock
        self._ids = ids
        self._random_hex = random_hex

    async def create_org(self, name: str, request_id: str) -> Org:
        """A new organisation, or the one that `request_id` made before."""
        now = self._clock.now()
        org = Org(str(self._ids.next()), policy.check_name("org", name), "active", self._random_hex(16), now, now)
        return await self._store.add_org(org, request_id)

    async def org(self, id_: str) -> Org:
        """One organisation."""
        return _known(await self._store.org(id_))

    async def orgs(self, after: str, limit: int) -> list[Org]:
        """Organisations, by id."""
        return await self._store.orgs(after, limit)

    async def change_org(self, id_: str, changes: Changes) -> Org:
        """Changes an organisation."""
        return await self._store.change_org(id_, _checked("org", changes))

    async def create_environment(
        self, org_id: str, name: str, region: str, allowed_models: tuple[str, ...], request_id: str
    ) -> Environment:
        """A new environment, or the one that `request_id` made before."""
        now = self._clock.now()
        environment = Environment(
            id=str(self._ids.next()),
            org_id=org_id,
            name=policy.check_name("environment", name),
            status="active",
            region=policy.check_region(region),
            allowed_models=policy.check_models(allowed_models),
            created_at=now,
            updated_at=now,
        )
        return await self._store.add_environment(environment, request_id)

    async def environment(self, id_: str) -> Environment:
        """One environment."""
        return _known(await self._store.environment(id_))

    async def environments(self, org_id: str, after: str, limit: int) -> list[Environment]:
        """An organisation's environments. NOT_FOUND: the organisation."""
        await self.org(org_id)
        return await self._store.environments(org_id, after, limit)

    async def change_environment(self, id_: str, changes: Changes) -> Environment:
        """Changes an environment."""
        return await self._store.change_environment(id_, _checked("environment", changes))

    async def create_api_key(
        self,
        environment_id: str,
        name: str,
        kind: Kind,
        allowed_models: tuple[str, ...],
        expires_at: datetime | None,
    ) -> tuple[ApiKey, str]:
        """A new key and its secret."""
        if expires_at is not None and expires_at <= self._clock.now():
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`expire_time` must be in the future.", param="expire_time")
        environment = await self.environment(environment_id)
        key, secret = self._make_key(
            org_id=environment.org_id,
            environment_id=environment_id,
            name=policy.check_name("api_key", name),
            kind=kind,
            allowed_models=policy.check_models(allowed_models),
            expires_at=expires_at,
        )
        return await self._store.add_api_key(key, policy.digest_of(secret)), secret

    async def api_key(self, id_: str) -> ApiKey:
        """One key."""
        return _known(await self._store.api_key(id_))

    async def api_keys(self, environment_id: str, after: str, limit: int) -> list[ApiKey]:
        """An environment's keys. NOT_FOUND: the environment."""
        await self.environment(environment_id)
        return await self._store.api_keys(environment_id, after, limit)

    async def change_api_key(self, id_: str, changes: Changes) -> ApiKey:
        """Changes a key."""
        return await self._store.change_api_key(id_, _checked("api_key", changes))

    async def revoke_api_key(self, id_: str) -> ApiKey:
        """Ends a key for good."""
        return await self._store.revoke_api_key(id_, self._clock.now())

    async def rotate_api_key(self, id_: str, overlap_s: int) -> tuple[ApiKey, str, ApiKey]:
        """A successor with the old key's settings, its secret, and the old key with the time it ends."""
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT, f"`overlap_s` must be 0 to {MAX_OVERLAP_S} seconds.", param="overlap_s"
            )
        old = await self.api_key(id_)
        now = self._clock.now()
        if old.expires_at is not None and old.expires_at <= now:
            raise CodedError(ErrorCode.CONFLICT, "The key has expired: create a new one.")
        made, secret = self._make_key(
            org_id=old.org_id,
            environment_id=old.environment_id,
            name=old.name,
            kind=old.kind,
            allowed_models=old.allowed_models,
            expires_at=old.expires_at,
        )
        # A suspended key's successor is suspended too: rotating is no way around a suspension.
        made = replace(made, status=old.status)
        ends_at = now + timedelta(seconds=overlap_s)
        successor, ended = await self._store.rotate_api_key(id_, made, policy.digest_of(secret), ends_at)
        return successor, secret, ended

    async def resolve(self, secret_sha256: bytes) -> KeyOwner:
        """Who a key works for, now."""
        return policy.refuse_unless_usable(await self._store.owner(secret_sha256), self._clock.now())

    def _make_key(
        self,
        *,
        org_id: str,
        environment_id: str,
        name: str,
        kind: Kind,
        allowed_models: tuple[str, ...],
        expires_at: datetime | None,
    ) -> tuple[ApiKey, str]:
        secret = policy.secret_of(kind, self._random_hex(16))
        key = ApiKey(
            id=str(self._ids.next()),
            org_id=org_id,
            environment_id=environment_id,
            name=name,
            kind=kind,
            status="active",
            hint=policy.hint_of(secret),
            allowed_models=allowed_models,
            expires_at=expires_at,
            revoked_at=None,
            created_at=self._clock.now(),
        )
        return key, secret


def _checked(kind: str, changes: Changes) -> Changes:
    if changes.name is not None:
        policy.check_name(kind, changes.name)
    if changes.region is not None:
        policy.check_region(changes.region)
    if changes.allowed_models is None:
        return changes
    return replace(changes, allowed_models=policy.check_models(changes.allowed_models))


def _known(found: Found | None) -> Found:
    if found is None:
        raise CodedError(ErrorCode.NOT_FOUND)
    return found
