"""The use cases of identity about tenants and keys."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_identity import checks, policy
from crosslogic_identity.domain import (
    Actor,
    ApiKey,
    Environment,
    EnvironmentChanges,
    KeyChanges,
    KeyOwner,
    Kind,
    Org,
    OrgChanges,
)
from crosslogic_identity.ports import TenantStore

Found = TypeVar("Found")

MAX_OVERLAP_S = 30 * 24 * 3600


class IdentityService:
    """Tenants and keys. Whoever asks for a change is given as `by`, for the audit log."""

    def __init__(
        self,
        *,
        store: TenantStore,
        clock: Clock,
        ids: Uuid7Source,
        random_hex: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        """`random_hex(n)` is n cryptographically random bytes in hexadecimal."""
        self._store = store
        self._clock = clock
        self._ids = ids
        self._random_hex = random_hex

    async def create_org(self, asked: OrgChanges, request_id: str, by: Actor) -> Org:
        """A new organisation, or the one that `request_id` made before. INVALID_ARGUMENT: the plan is not there."""
        now = self._clock.now()
        blank = Org(str(self._ids.next()), "", "active", self._random_hex(16), now, now)
        checked = _checked_org(replace(asked, name=asked.name or ""))
        return await self._store.add_org(replace(blank, **checked.values()), request_id, by)

    async def org(self, id_: str) -> Org:
        """One organisation."""
        return found(await self._store.org(id_))

    async def orgs(self, after: str, limit: int) -> list[Org]:
        """Organisations, by id."""
        return await self._store.orgs(after, limit)

    async def change_org(self, id_: str, changes: OrgChanges, by: Actor, *, cut_streams: bool = False) -> Org:
        """Changes an organisation. PERMISSION_DENIED: it ends a suspension that is not its own."""
        return await self._store.change_org(id_, _checked_org(changes), by, cut=cut_streams)

    async def create_environment(
        self, org_id: str, asked: EnvironmentChanges, request_id: str, by: Actor
    ) -> Environment:
        """A new environment, or the one that `request_id` made before."""
        now = self._clock.now()
        blank = Environment(str(self._ids.next()), org_id, "", "active", "", (), now, now)
        checked = _checked_environment(replace(asked, name=asked.name or ""))
        environment = checks.environment(replace(blank, **checked.values()))
        return await self._store.add_environment(environment, request_id, by)

    async def environment(self, id_: str) -> Environment:
        """One environment."""
        return found(await self._store.environment(id_))

    async def environments(self, org_id: str, after: str, limit: int) -> list[Environment]:
        """An organisation's environments. NOT_FOUND: the organisation."""
        await self.org(org_id)
        return await self._store.environments(org_id, after, limit)

    async def change_environment(
        self, id_: str, changes: EnvironmentChanges, by: Actor, *, cut_streams: bool = False
    ) -> Environment:
        """Changes an environment. PERMISSION_DENIED: its organisation ends a suspension by the operators."""
        return await self._store.change_environment(id_, _checked_environment(changes), by, cut=cut_streams)

    async def create_api_key(
        self, environment_id: str, asked: KeyChanges, kind: Kind, expires_at: datetime | None, by: Actor
    ) -> tuple[ApiKey, str]:
        """A new key and its secret."""
        if expires_at is not None and expires_at <= self._clock.now():
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`expire_time` must be in the future.", param="expire_time")
        environment = await self.environment(environment_id)
        blank, secret = self._make_key(environment.org_id, environment_id, kind, expires_at)
        key = replace(blank, **_checked_key(asked).values())
        return await self._store.add_api_key(key, policy.digest_of(secret), by), secret

    async def api_key(self, id_: str) -> ApiKey:
        """One key."""
        return found(await self._store.api_key(id_))

    async def api_keys(self, environment_id: str, after: str, limit: int) -> list[ApiKey]:
        """An environment's keys. NOT_FOUND: the environment."""
        await self.environment(environment_id)
        return await self._store.api_keys(environment_id, after, limit)

    async def change_api_key(self, id_: str, changes: KeyChanges, by: Actor, *, cut_streams: bool = False) -> ApiKey:
        """Changes a key. PERMISSION_DENIED: its organisation ends a suspension by the operators."""
        return await self._store.change_api_key(id_, _checked_key(changes), by, cut=cut_streams)

    async def revoke_api_key(self, id_: str, by: Actor, *, cut_streams: bool = False) -> ApiKey:
        """Ends a key for good."""
        return await self._store.revoke_api_key(id_, self._clock.now(), by, cut=cut_streams)

    async def rotate_api_key(
        self, id_: str, overlap_s: int, by: Actor, *, cut_streams: bool = False
    ) -> tuple[ApiKey, str, ApiKey]:
        """A successor with the old key's settings, its secret, and the old key with the time it ends."""
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT, f"`overlap_s` must be 0 to {MAX_OVERLAP_S} seconds.", param="overlap_s"
            )
        if cut_streams and overlap_s:
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT, "`cut_streams` needs `overlap_s` to be 0.", param="cut_streams"
            )
        old = await self.api_key(id_)
        now = self._clock.now()
        if old.expires_at is not None and old.expires_at <= now:
            raise CodedError(ErrorCode.CONFLICT, "The key has expired: create a new one.")
        blank, secret = self._make_key(old.org_id, old.environment_id, old.kind, old.expires_at)
        ends_at = now + timedelta(seconds=overlap_s)
        successor, ended = await self._store.rotate_api_key(
            id_, blank, policy.digest_of(secret), ends_at, by, cut=cut_streams
        )
        return successor, secret, ended

    async def resolve(self, secret_sha256: bytes) -> KeyOwner:
        """Who a key works for, now."""
        return policy.refuse_unless_usable(await self._store.owner(secret_sha256), self._clock.now())

    def _make_key(
        self, org_id: str, environment_id: str, kind: Kind, expires_at: datetime | None
    ) -> tuple[ApiKey, str]:
        secret = policy.secret_of(kind, self._random_hex(16))
        key = ApiKey(
            id=str(self._ids.next()),
            org_id=org_id,
            environment_id=environment_id,
            name="",
            kind=kind,
            status="active",
            hint=policy.hint_of(secret),
            allowed_models=(),
            expires_at=expires_at,
            revoked_at=None,
            created_at=self._clock.now(),
        )
        return key, secret


def _checked_org(changes: OrgChanges) -> OrgChanges:
    values = changes.values()
    if changes.name is not None:
        checks.name("org", changes.name)
    if changes.status_reason is not None:
        checks.reason(changes.status_reason)
    if changes.plan is not None:
        checks.plan_name(changes.plan)
    if changes.limits is not None:
        checks.limits("limits", changes.limits)
    if changes.monthly_cap_picodollars is not None:
        checks.picodollars("monthly_cap_picodollars", changes.monthly_cap_picodollars)
    if changes.reserved_capacity is not None:
        values["reserved_capacity"] = checks.reserved(changes.reserved_capacity)
    if changes.allowed_regions is not None:
        values["allowed_regions"] = checks.regions("allowed_regions", changes.allowed_regions)
    return OrgChanges(**values)


def _checked_environment(changes: EnvironmentChanges) -> EnvironmentChanges:
    values = changes.values()
    if changes.name is not None:
        checks.name("environment", changes.name)
    if changes.status_reason is not None:
        checks.reason(changes.status_reason)
    if changes.region is not None:
        checks.region(changes.region)
    if changes.limits is not None:
        checks.limits("limits", changes.limits)
    for field in ("max_prompt_tokens", "max_output_tokens"):
        if field in values:
            checks.tokens(field, values[field])
    if changes.monthly_cap_picodollars is not None:
        checks.picodollars("monthly_cap_picodollars", changes.monthly_cap_picodollars)
    if changes.allowed_models is not None:
        values["allowed_models"] = checks.models(changes.allowed_models)
    if changes.fallback_regions is not None:
        values["fallback_regions"] = checks.regions("fallback_regions", changes.fallback_regions)
    return EnvironmentChanges(**values)


def _checked_key(changes: KeyChanges) -> KeyChanges:
    values = changes.values()
    if changes.name is not None:
        checks.name("api_key", changes.name)
    if changes.status_reason is not None:
        checks.reason(changes.status_reason)
    if changes.limits is not None:
        checks.limits("limits", changes.limits)
    if changes.monthly_cap_picodollars is not None:
        checks.picodollars("monthly_cap_picodollars", changes.monthly_cap_picodollars)
    if changes.allowed_models is not None:
        values["allowed_models"] = checks.models(changes.allowed_models)
    if changes.allowed_regions is not None:
        values["allowed_regions"] = checks.regions("allowed_regions", changes.allowed_regions)
    if changes.allowed_cidrs is not None:
        values["allowed_cidrs"] = checks.cidrs(changes.allowed_cidrs)
    return KeyChanges(**values)


def found(thing: Found | None) -> Found:
    """What was asked for. Raises NOT_FOUND."""
    if thing is None:
        raise CodedError(ErrorCode.NOT_FOUND)
    return thing
