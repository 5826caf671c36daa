"""Identity's stores in memory: pass the same suite as those on PostgreSQL."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_identity import checks, policy
from crosslogic_identity.audit import NO_HASH, AuditEntry, AuditRecord, Head, next_record
from crosslogic_identity.domain import (
    Actor,
    ApiKey,
    Changes,
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
from crosslogic_identity.entries import entry_of
from crosslogic_identity.policy import content_of

Item = TypeVar("Item", Org, Environment, ApiKey, Plan, User)
NOBODY = Actor("token", name="test")


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
    """Every store of ports. `announced` is what NOTIFY would carry, `log` the audit log."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._orgs: dict[str, Org] = {}
        self._environments: dict[str, Environment] = {}
        self._keys: dict[str, ApiKey] = {}
        self._by_secret: dict[bytes, str] = {}
        self._requests: dict[str, tuple[str, bytes, datetime]] = {}
        now = clock.now()
        self._plans: dict[str, Plan] = {"default": Plan(name="default", created_at=now, updated_at=now)}
        self._users: dict[str, User] = {}
        self.announced: list[str] = []
        self.log: list[AuditRecord] = []

    async def add_org(self, org: Org, request_id: str, by: Actor) -> Org:
        made = self._made_before(request_id, org.id, content_of(org))
        if made:
            return self._orgs[made]
        self._check_plan(org)
        self._orgs[org.id] = org
        self._note(by, "org.create", None, org)
        return org

    async def org(self, id_: str) -> Org | None:
        return self._orgs.get(id_)

    async def orgs(self, after: str, limit: int) -> list[Org]:
        return sorted((org for org in self._orgs.values() if org.id > after), key=lambda org: org.id)[:limit]

    async def change_org(self, id_: str, changes: OrgChanges, by: Actor, *, cut: bool = False) -> Org:
        before = _known(self._orgs.get(id_))
        after = policy.touched(policy.changed(before, changes, by), self._clock.now())
        self._check_plan(after)
        self._orgs[id_] = after
        self._announce("org", id_, changes, cut=cut and after.status == "suspended")
        self._note(by, "org.update", before, after)
        return after

    async def add_environment(self, environment: Environment, request_id: str, by: Actor) -> Environment:
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
        self._note(by, "environment.create", None, environment)
        return environment

    async def environment(self, id_: str) -> Environment | None:
        return self._environments.get(id_)

    async def environments(self, org_id: str, after: str, limit: int) -> list[Environment]:
        found = [item for item in self._environments.values() if item.org_id == org_id and item.id > after]
        return sorted(found, key=lambda item: item.id)[:limit]

    async def change_environment(
        self, id_: str, changes: EnvironmentChanges, by: Actor, *, cut: bool = False
    ) -> Environment:
        before = _known(self._environments.get(id_))
        if changes.name is not None:
            self._check_name(before.org_id, changes.name, id_)
        after = checks.environment(policy.touched(policy.changed(before, changes, by), self._clock.now()))
        self._environments[id_] = after
        self._announce("environment", id_, changes, cut=cut and after.status == "suspended")
        self._note(by, "environment.update", before, after)
        return after

    async def add_api_key(self, key: ApiKey, secret_sha256: bytes, by: Actor) -> ApiKey:
        self._keys[key.id] = key
        self._by_secret[secret_sha256] = key.id
        self._note(by, "api_key.create", None, key)
        return key

    async def api_key(self, id_: str) -> ApiKey | None:
        return self._keys.get(id_)

    async def api_keys(self, environment_id: str, after: str, limit: int) -> list[ApiKey]:
        found = [key for key in self._keys.values() if key.environment_id == environment_id and key.id > after]
        return sorted(found, key=lambda key: key.id)[:limit]

    async def change_api_key(self, id_: str, changes: KeyChanges, by: Actor, *, cut: bool = False) -> ApiKey:
        before = self._living(id_)
        after = policy.changed(before, changes, by)
        self._keys[id_] = after
        self._announce("api_key", id_, changes, cut=cut and after.status == "suspended")
        self._note(by, "api_key.update", before, after)
        return after

    async def revoke_api_key(self, id_: str, now: datetime, by: Actor, *, cut: bool = False) -> ApiKey:
        before = _known(self._keys.get(id_))
        after = policy.revoked(before, now)
        self._keys[id_] = after
        self.announced.append(f"{'cut_' if cut else ''}api_key:{id_}")
        self._note(by, "api_key.revoke", before, after)
        return after

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
        before = self._living(id_)
        made, after = policy.successor_of(before, successor), policy.ending(before, ends_at)
        self._keys |= {made.id: made, id_: after}
        self._by_secret[secret_sha256] = made.id
        self.announced.append(f"{'cut_' if cut else ''}api_key:{id_}")
        self._note(by, "api_key.rotate", before, after, reason=f"successor {made.id}")
        self._note(by, "api_key.create", None, made, reason=f"successor of {id_}")
        return made, after

    async def owner(self, secret_sha256: bytes) -> KeyOwner | None:
        id_ = self._by_secret.get(secret_sha256)
        if id_ is None:
            return None
        key = self._keys[id_]
        org = self._orgs[key.org_id]
        return KeyOwner(key, self._environments[key.environment_id], org, self._plans[org.plan])

    async def add_plan(self, plan: Plan, by: Actor) -> Plan:
        if plan.name in self._plans:
            raise CodedError(ErrorCode.ALREADY_EXISTS)
        self._plans[plan.name] = plan
        self._note(by, "plan.create", None, plan)
        return plan

    async def plan(self, name: str) -> Plan | None:
        return self._plans.get(name)

    async def plans(self, after: str, limit: int) -> list[Plan]:
        return [self._plans[name] for name in sorted(self._plans) if name > after][:limit]

    async def change_plan(self, name: str, changes: PlanChanges, by: Actor) -> Plan:
        before = _known(self._plans.get(name))
        after = replace(before, **changes.values(), updated_at=self._clock.now())
        self._plans[name] = after
        if changes.values().keys() - {"description"}:
            self.announced.append(f"plan:{name}")
        self._note(by, "plan.update", before, after)
        return after

    async def add_user(self, user: User, by: Actor) -> User:
        if user.org_id:
            _known(self._orgs.get(user.org_id))
        if any((user.email, user.org_id) == (other.email, other.org_id) for other in self._users.values()):
            raise CodedError(ErrorCode.ALREADY_EXISTS)
        self._users[user.id] = user
        self._note(by, "user.create", None, user)
        return user

    async def user(self, id_: str) -> User | None:
        return self._users.get(id_)

    async def users(self, org_id: str, after: str, limit: int) -> list[User]:
        found = [user for user in self._users.values() if user.org_id == org_id and user.id > after]
        return sorted(found, key=lambda user: user.id)[:limit]

    async def change_user(self, id_: str, changes: UserChanges, by: Actor) -> User:
        before = _known(self._users.get(id_))
        after = replace(before, **changes.values(), updated_at=self._clock.now())
        self._users[id_] = after
        self._note(by, "user.update", before, after)
        return after

    async def remove_user(self, id_: str, by: Actor) -> User:
        before = _known(self._users.pop(id_, None))
        self._note(by, "user.delete", before, None)
        return before

    async def signed_in(self, issuer: str, subject: str, email: str, by: Actor, limit: int) -> list[User]:
        for before in list(self._users.values()):
            if email and before.email == email and not before.subject and before.status == "active":
                after = replace(before, issuer=issuer, subject=subject, updated_at=self._clock.now())
                self._users[after.id] = after
                self._note(replace(by, id=after.id), "user.bind", before, after)
        found = [user for user in self._users.values() if (user.issuer, user.subject) == (issuer, subject)]
        return sorted((user for user in found if user.status == "active"), key=lambda user: user.id)[:limit]

    async def record(self, entry: AuditEntry) -> AuditRecord:
        self.log.append(next_record(self._head(), self._clock.now(), entry))
        return self.log[-1]

    async def records(
        self, *, before_seq: int, limit: int, org_id: str = "", object_id: str = "", action: str = ""
    ) -> list[AuditRecord]:
        wanted = {"org_id": org_id, "object_id": object_id, "action": action}
        found = [
            record
            for record in reversed(self.log)
            if record.seq < before_seq
            and all(getattr(record.entry, name) == value for name, value in wanted.items() if value)
        ]
        return found[:limit]

    async def span(self, from_seq: int, up_to_seq: int) -> tuple[Sequence[AuditRecord], Head]:
        return [record for record in self.log if from_seq <= record.seq <= up_to_seq], self._head()

    def _head(self) -> Head:
        return Head(self.log[-1].seq, self.log[-1].hash) if self.log else Head(0, NO_HASH)

    def _note(self, by: Actor, action: str, before: Any, after: Any, *, reason: str = "") -> None:
        self.log.append(
            next_record(self._head(), self._clock.now(), entry_of(by, action, before, after, reason=reason))
        )

    def _check_plan(self, org: Org) -> None:
        if org.plan not in self._plans:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, param="plan")

    def _living(self, id_: str) -> ApiKey:
        key = _known(self._keys.get(id_))
        if key.status == "revoked":
            raise CodedError(ErrorCode.CONFLICT)
        return key

    def _check_name(self, org_id: str, name: str, own_id: str) -> None:
        for other in self._environments.values():
            if other.org_id == org_id and other.name == name and other.id != own_id:
                raise CodedError(ErrorCode.ALREADY_EXISTS, param="name")

    def _announce(self, scope: str, id_: str, changes: Changes, *, cut: bool) -> None:
        if changes.touch_requests:
            self.announced.append(f"{'cut_' if cut else ''}{scope}:{id_}")

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
