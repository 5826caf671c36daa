"""What every store of identity must do. Subclasses give the fixtures `store` and `announced`."""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import uuid4

import pytest

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.paging import LEAST_ID
from crosslogic_identity.domain import ApiKey, Environment, EnvironmentChanges, KeyChanges, Org, OrgChanges
from crosslogic_identity.ports import PlanStore, TenantStore, UserStore
from tests.fakes.identity_store import NOBODY

NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
IDS = Uuid7Source()


class AnyStore(TenantStore, PlanStore, UserStore, Protocol):
    """All that the suite is about."""


Announced = Callable[[], Awaitable[list[str]]]


def new_org(name: str = "Acme") -> Org:
    return Org(str(IDS.next()), name, "active", secrets.token_hex(16), NOW, NOW)


def new_environment(org: Org, name: str = "production", models: tuple[str, ...] = ()) -> Environment:
    return Environment(str(IDS.next()), org.id, name, "active", "us-east", models, NOW, NOW)


def new_key(environment: Environment, expires_at: datetime | None = None) -> ApiKey:
    return ApiKey(
        id=str(IDS.next()),
        org_id=environment.org_id,
        environment_id=environment.id,
        name="ci",
        kind="live",
        status="active",
        hint="clsk_live_…0001",
        allowed_models=("a", "b"),
        expires_at=expires_at,
        revoked_at=None,
        created_at=NOW,
    )


def digest() -> bytes:
    return hashlib.sha256(secrets.token_bytes(16)).digest()


class StoreSuite:
    """The suite."""

    async def tenant(self, store: AnyStore) -> tuple[Org, Environment]:
        org = await store.add_org(new_org(), "", NOBODY)
        return org, await store.add_environment(new_environment(org), "", NOBODY)

    async def test_what_is_stored_is_read_back_whole(self, store: AnyStore) -> None:
        org, environment = await self.tenant(store)
        key, secret = new_key(environment, NOW + timedelta(days=1)), digest()
        stored = await store.add_api_key(key, secret, NOBODY)
        assert await store.org(org.id) == org
        assert await store.environment(environment.id) == environment
        assert await store.api_key(key.id) == stored
        assert (stored.allowed_models, stored.expires_at, stored.hint) == (("a", "b"), key.expires_at, key.hint)
        owner = await store.owner(secret)
        assert owner is not None
        assert (owner.key, owner.environment, owner.org) == (stored, environment, org)

    async def test_nothing_is_found_where_nothing_was_stored(self, store: AnyStore) -> None:
        nobody = str(IDS.next())
        assert await store.org(nobody) is None
        assert await store.environment(nobody) is None
        assert await store.api_key(nobody) is None
        assert await store.owner(digest()) is None
        for change in (
            store.change_org(nobody, OrgChanges(name="x"), NOBODY),
            store.change_environment(nobody, EnvironmentChanges(name="x"), NOBODY),
            store.change_api_key(nobody, KeyChanges(name="x"), NOBODY),
            store.revoke_api_key(nobody, NOW, NOBODY),
            store.add_environment(new_environment(new_org()), "", NOBODY),
        ):
            with pytest.raises(CodedError) as raised:
                await change
            assert raised.value.code == ErrorCode.NOT_FOUND

    async def test_a_tenants_lists_hold_its_own_things_oldest_first(self, store: AnyStore) -> None:
        org, environment = await self.tenant(store)
        other_org, other = await self.tenant(store)
        keys = [await store.add_api_key(new_key(environment), digest(), NOBODY) for _ in range(5)]
        await store.add_api_key(new_key(other), digest(), NOBODY)
        second = await store.add_environment(new_environment(org, "staging"), "", NOBODY)
        assert await store.environments(org.id, LEAST_ID, 10) == [environment, second]
        assert await store.api_keys(environment.id, LEAST_ID, 10) == keys
        assert await store.api_keys(environment.id, keys[1].id, 2) == keys[2:4]
        assert [found.id for found in await store.orgs(org.id, 1)] == [other_org.id]

    async def test_two_environments_of_an_org_never_share_a_name(self, store: AnyStore) -> None:
        org, environment = await self.tenant(store)
        _, elsewhere = await self.tenant(store)
        assert elsewhere.name == environment.name
        staging = await store.add_environment(new_environment(org, "staging"), "", NOBODY)
        for attempt in (
            store.add_environment(new_environment(org, environment.name), "", NOBODY),
            store.change_environment(staging.id, EnvironmentChanges(name=environment.name), NOBODY),
        ):
            with pytest.raises(CodedError) as raised:
                await attempt
            assert raised.value.code == ErrorCode.ALREADY_EXISTS
        assert (await store.environment(staging.id)) == staging

    async def test_an_update_changes_what_it_names_and_nothing_else(self, store: AnyStore) -> None:
        org, environment = await self.tenant(store)
        key = await store.add_api_key(new_key(environment), digest(), NOBODY)
        asked = EnvironmentChanges(allowed_models=("x",), region="")
        changed = await store.change_environment(environment.id, asked, NOBODY)
        assert (changed.allowed_models, changed.region) == (("x",), "")
        assert (changed.name, changed.status) == (environment.name, "active")
        cleared = await store.change_environment(environment.id, EnvironmentChanges(allowed_models=()), NOBODY)
        assert cleared.allowed_models == ()
        renamed = await store.change_api_key(key.id, KeyChanges(name=""), NOBODY)
        assert (renamed.name, renamed.allowed_models) == ("", key.allowed_models)
        assert (await store.change_org(org.id, OrgChanges(status="suspended"), NOBODY)).status == "suspended"
        assert (await store.org(org.id)) != org

    async def test_a_revoked_key_stays_revoked_whatever_is_asked(self, store: AnyStore) -> None:
        _, environment = await self.tenant(store)
        key = await store.add_api_key(new_key(environment), digest(), NOBODY)
        first = await store.revoke_api_key(key.id, NOW, NOBODY)
        again = await store.revoke_api_key(key.id, NOW + timedelta(hours=1), NOBODY)
        assert first == again
        assert (again.status, again.revoked_at) == ("revoked", NOW)
        for attempt in (
            store.change_api_key(key.id, KeyChanges(status="active"), NOBODY),
            store.rotate_api_key(key.id, new_key(environment), digest(), NOW, NOBODY),
        ):
            with pytest.raises(CodedError) as raised:
                await attempt
            assert raised.value.code == ErrorCode.CONFLICT
        assert await store.api_keys(environment.id, LEAST_ID, 10) == [again]

    async def test_a_rotated_key_works_until_the_overlap_ends_or_its_own_end_comes(self, store: AnyStore) -> None:
        _, environment = await self.tenant(store)
        soon, late = NOW + timedelta(minutes=1), NOW + timedelta(days=30)
        for expires_at, ends_at, expected in ((None, late, late), (soon, late, soon), (late, soon, soon)):
            key = await store.add_api_key(new_key(environment, expires_at), digest(), NOBODY)
            secret = digest()
            successor, old = await store.rotate_api_key(key.id, new_key(environment), secret, ends_at, NOBODY)
            assert old.expires_at == expected
            owner = await store.owner(secret)
            assert owner is not None
            assert owner.key == successor

    async def test_a_retried_create_makes_nothing_more(self, store: AnyStore) -> None:
        request = str(uuid4())
        first = await store.add_org(new_org("Retry"), request, NOBODY)
        assert (await store.add_org(new_org("Retry"), request, NOBODY)) == first
        environment = await store.add_environment(new_environment(first), other := str(uuid4()), NOBODY)
        assert (await store.add_environment(new_environment(first), other, NOBODY)) == environment
        assert await store.environments(first.id, LEAST_ID, 10) == [environment]

    async def test_creates_that_race_with_one_request_id_make_one(self, store: AnyStore) -> None:
        request = str(uuid4())
        made = await asyncio.gather(*(store.add_org(new_org("Race"), request, NOBODY) for _ in range(8)))
        assert len({org.id for org in made}) == 1

    async def test_a_request_id_of_another_request_is_refused_not_answered_with_it(self, store: AnyStore) -> None:
        request = str(uuid4())
        org = await store.add_org(new_org("A"), request, NOBODY)
        for attempt in (
            store.add_org(new_org("B"), request, NOBODY),
            store.add_environment(new_environment(org), request, NOBODY),
        ):
            with pytest.raises(CodedError) as raised:
                await attempt
            assert (raised.value.code, raised.value.param) == (ErrorCode.INVALID_ARGUMENT, "request_id")

    async def test_a_create_that_failed_leaves_its_request_id_free(self, store: AnyStore) -> None:
        org, environment = await self.tenant(store)
        request = str(uuid4())
        with pytest.raises(CodedError):
            await store.add_environment(new_environment(org, environment.name), request, NOBODY)
        assert (await store.add_environment(new_environment(org, "other"), request, NOBODY)).name == "other"

    async def test_whatever_changes_what_a_request_may_do_is_announced(
        self, store: AnyStore, announced: Announced
    ) -> None:
        org, environment = await self.tenant(store)
        key = await store.add_api_key(new_key(environment), digest(), NOBODY)
        await announced()
        await store.change_org(org.id, OrgChanges(status="suspended"), NOBODY)
        await store.change_environment(environment.id, EnvironmentChanges(region="eu"), NOBODY)
        await store.change_environment(environment.id, EnvironmentChanges(allowed_models=("m",)), NOBODY)
        await store.change_api_key(key.id, KeyChanges(allowed_models=("m",)), NOBODY)
        await store.rotate_api_key(key.id, new_key(environment), digest(), NOW, NOBODY)
        await store.revoke_api_key(key.id, NOW, NOBODY)
        assert await announced() == [
            f"org:{org.id}",
            f"environment:{environment.id}",
            f"environment:{environment.id}",
            f"api_key:{key.id}",
            f"api_key:{key.id}",
            f"api_key:{key.id}",
        ]

    async def test_a_new_name_empties_no_gateways_cache(self, store: AnyStore, announced: Announced) -> None:
        org, environment = await self.tenant(store)
        key = await store.add_api_key(new_key(environment), digest(), NOBODY)
        await announced()
        await store.change_org(org.id, OrgChanges(name="new"), NOBODY)
        await store.change_environment(environment.id, EnvironmentChanges(name="new"), NOBODY)
        await store.change_api_key(key.id, KeyChanges(name="new"), NOBODY)
        assert await announced() == []

    async def test_a_change_that_was_refused_is_not_announced(self, store: AnyStore, announced: Announced) -> None:
        org, environment = await self.tenant(store)
        staging = await store.add_environment(new_environment(org, "staging"), "", NOBODY)
        await announced()
        asked = EnvironmentChanges(name=environment.name, status="suspended")
        with pytest.raises(CodedError):
            await store.change_environment(staging.id, asked, NOBODY)
        assert await announced() == []
