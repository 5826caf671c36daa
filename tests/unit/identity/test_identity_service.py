"""What identity decides."""

import hashlib
from datetime import timedelta

import pytest

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_identity import policy
from crosslogic_identity.domain import ApiKey, Environment, EnvironmentChanges, KeyChanges, KeyOwner, Org, OrgChanges
from crosslogic_identity.service import IdentityService
from tests.fakes.identity_store import NOBODY, FakeClock, FakeStore


class World:
    """A service over the fake store."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeStore(self.clock)
        self.service = IdentityService(store=self.store, clock=self.clock, ids=Uuid7Source())

    async def key(self, models: tuple[str, ...] = (), **environment: tuple[str, ...]) -> tuple[ApiKey, str]:
        org = await self.service.create_org(OrgChanges(name="Acme"), "", NOBODY)
        made = await self.service.create_environment(
            org.id,
            EnvironmentChanges(name="production", allowed_models=environment.get("allows", ())),
            "",
            NOBODY,
        )
        return await self.service.create_api_key(made.id, KeyChanges(allowed_models=models), "live", None, NOBODY)

    async def owner(self, secret: str) -> KeyOwner:
        return await self.service.resolve(hashlib.sha256(secret.encode()).digest())

    async def refusal(self, secret: str) -> CodedError:
        with pytest.raises(CodedError) as raised:
            await self.owner(secret)
        return raised.value


@pytest.fixture
def world() -> World:
    return World()


async def test_a_new_key_has_the_promised_form_and_128_random_bits(world: World) -> None:
    key, secret = await world.key()
    prefix, _, digits = secret.rpartition("_")
    assert prefix == "clsk_live"
    assert len(digits) == 32
    assert int(digits, 16) >= 0
    assert key.hint == f"clsk_live_…{secret[-4:]}"
    assert (await world.owner(secret)).key == key


async def test_two_orgs_never_share_a_cache_salt(world: World) -> None:
    salts = {(await world.service.create_org(OrgChanges(name="Acme"), "", NOBODY)).cache_salt for _ in range(20)}
    assert len(salts) == 20
    assert all(len(salt) == 32 for salt in salts)


async def test_an_unknown_a_revoked_and_an_expired_key_cannot_be_told_apart(world: World) -> None:
    revoked, revoked_secret = await world.key()
    await world.service.revoke_api_key(revoked.id, NOBODY)
    expired, expired_secret = await world.key()
    await world.service.rotate_api_key(expired.id, 60, NOBODY)
    world.clock.pass_by(60)
    refusals = [await world.refusal(secret) for secret in ("clsk_live_" + "0" * 32, revoked_secret, expired_secret)]
    shapes = {(error.code, error.public, error.param, error.retry_after_s, error.private) for error in refusals}
    assert shapes == {(ErrorCode.INVALID_API_KEY, refusals[0].public, None, None, "")}


async def test_a_revoked_key_of_a_suspended_org_says_nothing_of_the_suspension(world: World) -> None:
    key, secret = await world.key()
    await world.service.revoke_api_key(key.id, NOBODY)
    await world.service.change_org(key.org_id, OrgChanges(status="suspended"), NOBODY)
    assert (await world.refusal(secret)).code == ErrorCode.INVALID_API_KEY


async def test_a_suspended_tenant_is_told_so_and_comes_back(world: World) -> None:
    key, secret = await world.key()
    await world.service.change_org(key.org_id, OrgChanges(status="suspended"), NOBODY)
    assert (await world.refusal(secret)).code == ErrorCode.TENANT_SUSPENDED
    await world.service.change_org(key.org_id, OrgChanges(status="active"), NOBODY)
    await world.service.change_environment(key.environment_id, EnvironmentChanges(status="suspended"), NOBODY)
    assert (await world.refusal(secret)).code == ErrorCode.TENANT_SUSPENDED
    await world.service.change_environment(key.environment_id, EnvironmentChanges(status="active"), NOBODY)
    assert (await world.owner(secret)).key.id == key.id


async def test_both_keys_work_during_a_rotations_overlap_and_only_the_new_one_after_it(world: World) -> None:
    key, old_secret = await world.key(models=("a",))
    new, new_secret, old = await world.service.rotate_api_key(key.id, 3600, NOBODY)
    assert new_secret != old_secret
    assert (new.allowed_models, new.kind, new.environment_id) == (key.allowed_models, key.kind, key.environment_id)
    assert old.expires_at == world.clock.now() + timedelta(seconds=3600)
    for secret in (old_secret, new_secret):
        await world.owner(secret)
    world.clock.pass_by(3600)
    assert (await world.refusal(old_secret)).code == ErrorCode.INVALID_API_KEY
    await world.owner(new_secret)


async def test_a_rotation_without_overlap_ends_the_old_key_at_once(world: World) -> None:
    key, secret = await world.key()
    await world.service.rotate_api_key(key.id, 0, NOBODY)
    assert (await world.refusal(secret)).code == ErrorCode.INVALID_API_KEY


async def test_rotating_is_no_way_around_a_suspension(world: World) -> None:
    key, _ = await world.key()
    await world.service.change_api_key(key.id, KeyChanges(status="suspended"), NOBODY)
    _, secret, _ = await world.service.rotate_api_key(key.id, 60, NOBODY)
    assert (await world.refusal(secret)).code == ErrorCode.TENANT_SUSPENDED


async def test_a_key_that_ended_is_not_brought_back_by_a_rotation(world: World) -> None:
    key, _ = await world.key()
    await world.service.rotate_api_key(key.id, 0, NOBODY)
    with pytest.raises(CodedError) as raised:
        await world.service.rotate_api_key(key.id, 60, NOBODY)
    assert raised.value.code == ErrorCode.CONFLICT


@pytest.mark.parametrize("overlap_s", [-1, 30 * 24 * 3600 + 1])
async def test_an_overlap_out_of_range_is_refused(world: World, overlap_s: int) -> None:
    key, _ = await world.key()
    with pytest.raises(CodedError) as raised:
        await world.service.rotate_api_key(key.id, overlap_s, NOBODY)
    assert raised.value.param == "overlap_s"


async def test_a_key_that_would_never_work_is_not_made(world: World) -> None:
    key, _ = await world.key()
    with pytest.raises(CodedError) as raised:
        await world.service.create_api_key(key.environment_id, KeyChanges(), "live", world.clock.now(), NOBODY)
    assert raised.value.param == "expire_time"


@pytest.mark.parametrize(
    ("environment", "key", "allowed"),
    [
        ((), (), None),
        (("a",), (), {"a"}),
        ((), ("a",), {"a"}),
        (("a", "b"), ("b", "c"), {"b"}),
        (("a",), ("b",), set()),
    ],
)
async def test_a_key_never_gets_a_model_that_its_environment_does_not_have(
    world: World, environment: tuple[str, ...], key: tuple[str, ...], allowed: set[str] | None
) -> None:
    _, secret = await world.key(models=key, allows=environment)
    assert policy.models_of(await world.owner(secret)) == allowed


@pytest.mark.parametrize("name", ["", "x" * 201, "a\x00b", "a\nb", "\ud800"])
async def test_a_name_that_cannot_be_stored_or_shown_is_refused(world: World, name: str) -> None:
    with pytest.raises(CodedError) as raised:
        await world.service.create_org(OrgChanges(name=name), "", NOBODY)
    assert (raised.value.code, raised.value.param) == (ErrorCode.INVALID_ARGUMENT, "name")


@pytest.mark.parametrize("region", ["US", "a_b", "-a", "a" * 64, "é"])
async def test_a_region_that_is_none_is_refused(world: World, region: str) -> None:
    org = await world.service.create_org(OrgChanges(name="Acme"), "", NOBODY)
    with pytest.raises(CodedError) as raised:
        await world.service.create_environment(org.id, EnvironmentChanges(name="e", region=region), "", NOBODY)
    assert raised.value.param == "region"


@pytest.mark.parametrize("models", [("",), ("x" * 201,), tuple(str(number) for number in range(1001))])
async def test_a_list_of_models_that_cannot_be_is_refused(world: World, models: tuple[str, ...]) -> None:
    with pytest.raises(CodedError) as raised:
        await world.key(models=models)
    assert raised.value.param == "allowed_models"


def test_two_creates_are_the_same_only_if_they_ask_for_the_same() -> None:
    now = FakeClock().now()

    def environment(name: str, region: str, *models: str) -> bytes:
        return policy.content_of(Environment("id", "org", name, "active", region, models, now, now))

    contents = [
        environment("a", "bc"),
        environment("ab", "c"),
        environment("a", "", "bc"),
        environment("a", "", "b", "c"),
        policy.content_of(Org("id", "a", "active", "salt", now, now)),
    ]
    assert len(set(contents)) == len(contents)
