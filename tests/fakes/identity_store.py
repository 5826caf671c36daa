"""Identity's store in memory: passes the same suite as the one on PostgreSQL."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_identity.domain import ApiKey, Changes, Environment, KeyOwner, Org
from crosslogic_identity.policy import content_of

Item = TypeVar("Item", Org, Environment, ApiKey)


class FakeClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 11, 21, 12, tzinfo=UTC)
        self.seconds = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def pass_by(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.seconds += seconds


class FakeStore:
    """ports.Store. `announced` is what NOTIFY would carry."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._orgs: dict[str, Org] = {}
        self._environments: dict[str, Environment] = {}
        self._keys: dict[str, ApiKey] = {}
        self._by_secret: dict[bytes, str] = {}
        self._requests: dict[str, tuple[str, bytes, datetime]] = {}
        self.announced: list[str] = []

    async def add_org(self, org: Org, request_id: str) -> Org:
        made = self._made_before(request_id, org.id, content_of(org))
        return self._orgs[made] if made else self._orgs.setdefault(org.id, org)

    async def org(self, id_: str) -> Org | None:
        return self._orgs.get(id_)

    async def orgs(self, after: str, limit: int) -> list[Org]:
        return sorted((org for org in self._orgs.values() if org.id > after), key=lambda org: org.id)[:limit]

    async def change_org(self, id_: str, changes: Changes) -> Org:
        org = _known(self._orgs.get(id_))
        changed = replace(
            org, name=changes.name or org.name, status=changes.status or org.status, updated_at=self._clock.now()
        )
        self._orgs[id_] = changed
        self._announce("org", id_, changes)
        return changed

    async def add_environment(self, environment: Environment, request_id: str) -> Environment:
        made = self._made_before(request_id, environment.id, content_of(environment))
        if made:
            return self._environments[made]
        try:
            _known(self._orgs.get(environment.org_id))
            self._check_name(environment.org_id, environment.name, environment.id)
        except CodedError:
            self._requests.pop(request_id, None)
            raise
        self._environments[environment.id] = environment
        return environment

    async def environment(self, id_: str) -> Environment | None:
        return self._environments.get(id_)

    async def environments(self, org_id: str, after: str, limit: int) -> list[Environment]:
        found = [item for item in self._environments.values() if item.org_id == org_id and item.id > after]
        return sorted(found, key=lambda item: item.id)[:limit]

    async def change_environment(self, id_: str, changes: Changes) -> Environment:
        old = _known(self._environments.get(id_))
        if changes.name is not None:
            self._check_name(old.org_id, changes.name, id_)
        changed = replace(
            old,
            name=old.name if changes.name is None else changes.name,
            status=old.status if changes.status is None else changes.status,
            region=old.region if changes.region is None else changes.region,
            allowed_models=old.allowed_models if changes.allowed_models is None else changes.allowed_models,
            updated_at=self._clock.now(),
        )
        self._environments[id_] = changed
        self._announce("environment", id_, changes)
        return changed

    async def add_api_key(self, key: ApiKey, secret_sha256: bytes) -> ApiKey:
        self._keys[key.id] = key
        self._by_secret[secret_sha256] = key.id
        return key

    async def api_key(self, id_: str) -> ApiKey | None:
        return self._keys.get(id_)

    async def api_keys(self, environment_id: str, after: str, limit: int) -> list[ApiKey]:
        found = [key for key in self._keys.values() if key.environment_id == environment_id and key.id > after]
        return sorted(found, key=lambda key: key.id)[:limit]

    async def change_api_key(self, id_: str, changes: Changes) -> ApiKey:
        old = self._living(id_)
        changed = replace(
            old,
            name=old.name if changes.name is None else changes.name,
            status=old.status if changes.status is None else changes.status,
            allowed_models=old.allowed_models if changes.allowed_models is None else changes.allowed_models,
        )
        self._keys[id_] = changed
        self._announce("api_key", id_, changes)
        return changed

    async def revoke_api_key(self, id_: str, now: datetime) -> ApiKey:
        old = _known(self._keys.get(id_))
        revoked = replace(old, status="revoked", revoked_at=old.revoked_at or now)
        self._keys[id_] = revoked
        self.announced.append(f"api_key:{id_}")
        return revoked

    async def rotate_api_key(
        self, id_: str, successor: ApiKey, secret_sha256: bytes, ends_at: datetime
    ) -> tuple[ApiKey, ApiKey]:
        old = self._living(id_)
        await self.add_api_key(successor, secret_sha256)
        ended = replace(old, expires_at=min(ends_at, old.expires_at or ends_at))
        self._keys[id_] = ended
        self.announced.append(f"api_key:{id_}")
        return successor, ended

    async def owner(self, secret_sha256: bytes) -> KeyOwner | None:
        id_ = self._by_secret.get(secret_sha256)
        if id_ is None:
            return None
        key = self._keys[id_]
        return KeyOwner(key, self._environments[key.environment_id], self._orgs[key.org_id])

    def _living(self, id_: str) -> ApiKey:
        key = _known(self._keys.get(id_))
        if key.status == "revoked":
            raise CodedError(ErrorCode.CONFLICT)
        return key

    def _check_name(self, org_id: str, name: str, own_id: str) -> None:
        for other in self._environments.values():
            if other.org_id == org_id and other.name == name and other.id != own_id:
                raise CodedError(ErrorCode.ALREADY_EXISTS, param="name")

    def _announce(self, scope: str, id_: str, changes: Changes) -> None:
        if changes.touch_requests:
            self.announced.append(f"{scope}:{id_}")

    def _made_before(self, request_id: str, object_id: str, content: bytes) -> str | None:
        if not request_id:
            return None
        known = self._requests.get(request_id)
        if known is None or known[2] < self._clock.now() - timedelta(hours=24):
            self._requests[request_id] = (object_id, content, self._clock.now())
            return None
        if known[1] != content:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, param="request_id")
        return known[0]


def _known(item: Item | None) -> Item:
    if item is None:
        raise CodedError(ErrorCode.NOT_FOUND)
    return item
