"""What every store of identity must do. Subclasses give the fixtures `store` and `announced`."""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.paging import LEAST_ID
from crosslogic_identity.domain import ApiKey, Changes, Environment, Org
from crosslogic_identity.ports import Store

NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
IDS = Uuid7Source()
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

    async def tenant(self, store: Store) -> tuple[Org, Environment]:
        org = await store.add_org(new_org(), "")
        return org, await store.add_environment(new_environment(org), "")

    async def test_what_is_stored_is_read_back_whole(self, store: Store) -> None:
        org, environment = await self.tenant(store)
        key, secret = new_key(environment, NOW + timedelta(days=1)), digest()
        stored = await store.add_api_key(key, secret)
        assert await store.org(org.id) == org
        assert await store.environment(environment.id) == environment
        assert await store.api_key(key.id) == stored
        assert (stored.allowed_models, stored.expires_at, stored.hint) == (("a", "b"), key.expires_at, key.hint)
        owner = await store.owner(secret)
        assert owner is not None
        assert (owner.key, owner.environment, owner.org) == (stored, environment, org)

    async def test_nothing_is_found_where_nothing_was_stored(self, store: Store) -> None:
        nobody = str(IDS.next())
        assert await store.org(nobody) is None
        assert await store.environment(nobody) is None
        assert await store.api_key(nobody) is None
        assert await store.owner(digest()) is None
        for change in (
            store.change_org(nobody, Changes(name="x")),
            store.change_environment(nobody, Changes(name="x")),
            store.change_api_key(nobody, Changes(name="x")),
            store.revoke_api_key(nobody, NOW),
            store.add_environment(new_environment(new_org()), ""),
        ):
            with pytest.raises(CodedError) as raised:
                await change
            assert raised.value.code == ErrorCode.NOT_FOUND

    async def test_a_tenants_lists_hold_its_own_things_oldest_first(self, store: Store) -> None:
        org, environment = await self.tenant(store)
        other_org, other = await self.tenant(store)
        keys = [await store.add_api_key(new_key(environment), digest()) for _ in range(5)]
        await store.add_api_key(new_key(other), digest())
        second = await store.add_environment(new_environment(org, "staging"), "")
        assert await store.environments(org.id, LEAST_ID, 10) == [environment, second]
        assert await store.api_keys(environment.id, LEAST_ID, 10) == keys
        assert await store.api_keys(environment.id, keys[1].id, 2) == keys[2:4]
        assert [found.id for found in await store.orgs(org.id, 1)] == [other_org.id]

    async def test_two_environments_of_an_org_never_share_a_name(self, store: Store) -> None:
        org, environment = await self.tenant(store)
        _, elsewhere = await self.tenant(store)
        assert elsewhere.name == environment.name
        staging = await store.add_environment(new_environment(org, "staging"), "")
        for attempt in (
            store.add_environment(new_environment(org, environment.name), ""),
            store.change_environment(staging.id, Changes(name=environment.name)),
        ):
            with pytest.raises(CodedError) as raised:
                await attempt
            assert raised.value.code == ErrorCode.ALREADY_EXISTS
        assert (await store.environment(staging.id)) == staging

    async def test_an_update_changes_what_it_names_and_nothing_else(self, store: Store) -> None:
        org, environment = await self.tenant(store)
        key = await store.add_api_key(new_key(environment), digest())
        changed = await store.change_environment(environment.id, Changes(allowed_models=("x",), region=""))
        assert (changed.allowed_models, changed.region) == (("x",), "")
        assert (changed.name, changed.status) == (environment.name, "active")
        assert (await store.change_environment(environment.id, Changes(allowed_models=()))).allowed_models == ()
        renamed = await store.change_api_key(key.id, Changes(name=""))
        assert (renamed.name, renamed.allowed_models) == ("", key.allowed_models)
        assert (await store.change_org(org.id, Changes(status="suspended"))).status == "suspended"
        assert (await store.org(org.id)) != org

    async def test_a_revoked_key_stays_revoked_whatever_is_asked(self, store: Store) -> None:
        _, environment = await self.tenant(store)
        key = await store.add_api_key(new_key(environment), digest())
        first = await store.revoke_api_key(key.id, NOW)
        again = await store.revoke_api_key(key.id, NOW + timedelta(hours=1))
        assert first == again
        assert (again.status, again.revoked_at) == ("revoked", NOW)
        for attempt in (
            store.change_api_key(key.id, Changes(status="active")),
            store.rotate_api_key(key.id, new_key(environment), digest(), NOW),
        ):
            with pytest.raises(CodedError) as raised:
                await attempt
            assert raised.value.code == ErrorCode.CONFLICT
        assert await store.api_keys(environment.id, LEAST_ID, 10) == [again]

    async def test_a_rotated_key_works_until_the_overlap_ends_or_its_own_end_comes(self, store: Store) -> None:
        _, environment = await self.tenant(store)
        soon, late = NOW + timedelta(minutes=1), NOW + timedelta(days=30)
        for expires_at, ends_at, expected in ((None, late, late), (soon, late, soon), (late, soon, soon)):
            key = await store.add_api_key(new_key(environment, expires_at), digest())
            secret = digest()
            successor, old = await store.rotate_api_key(key.id, new_key(environment), secret, ends_at)
            assert old.expires_at == expected
            owner = await store.owner(secret)
            assert owner is not None
            assert owner.key == successor

    async def test_a_retried_create_makes_nothing_more(self, store: Store) -> None:
        request = str(uuid4())
        first = await store.add_org(new_org("Retry"), request)
        assert (await store.add_org(new_org("Retry"), request)) == first
        environment = await store.add_environment(new_environment(first), other := str(uuid4()))
        assert (await store.add_environment(new_environment(first), other)) == environment
        assert await store.environments(first.id, LEAST_ID, 10) == [environment]

    async def test_creates_that_race_with_one_request_id_make_one(self, store: Store) -> None:
        request = str(uuid4())
        made = await asyncio.gather(*(store.add_org(new_org("Race"), request) for _ in range(8)))
        assert len({org.id for org in made}) == 1

    async def test_a_request_id_of_another_request_is_refused_rather_than_answered_with_it(self, store: Store) -> None:
        request = str(uuid4())
        org = await store.add_org(new_org("A"), request)
        for attempt in (
            store.add_org(new_org("B"), request),
            store.add_environment(new_environment(org), request),
        ):
            with pytest.raises(CodedError) as raised:
                await attempt
            assert (raised.value.code, raised.value.param) == (ErrorCode.INVALID_ARGUMENT, "request_id")

    async def test_a_create_that_failed_leaves_its_request_id_free(self, store: Store) -> None:
        org, environment = await self.tenant(store)
        request = str(uuid4())
        with pytest.raises(CodedError):
            await store.add_environment(new_environment(org, environment.name), request)
        assert (await store.add_environment(new_environment(org, "other"), request)).name == "other"

    async def test_whatever_changes_what_a_request_may_do_is_announced(
        self, store: Store, announced: Announced
    ) -> None:
        org, environment = await self.tenant(store)
        key = await store.add_api_key(new_key(environment), digest())
        await announced()
        await store.change_org(org.id, Changes(status="suspended"))
        await store.change_environment(environment.id, Changes(region="eu"))
        await store.change_environment(environment.id, Changes(allowed_models=("m",)))
        await store.change_api_key(key.id, Changes(allowed_models=("m",)))
        await store.rotate_api_key(key.id, new_key(environment), digest(), NOW)
        await store.revoke_api_key(key.id, NOW)
        assert await announced() == [
            f"org:{org.id}",
            f"environment:{environment.id}",
            f"environment:{environment.id}",
            f"api_key:{key.id}",
            f"api_key:{key.id}",
            f"api_key:{key.id}",
        ]

    async def test_a_new_name_empties_no_gateways_cache(self, store: Store, announced: Announced) -> None:
        org, environment = await self.tenant(store)
        key = await store.add_api_key(new_key(environment), digest())
        await announced()
        await store.change_org(org.id, Changes(name="new"))
        await store.change_environment(environment.id, Changes(name="new"))
        await store.change_api_key(key.id, Changes(name="new"))
        assert await announced() == []

    async def test_a_change_that_was_refused_is_not_announced(self, store: Store, announced: Announced) -> None:
        org, environment = await self.tenant(store)
        staging = await store.add_environment(new_environment(org, "staging"), "")
        await announced()
        with pytest.raises(CodedError):
            await store.change_environment(staging.id, Changes(name=environment.name, status="suspended"))
        assert await announced() == []
