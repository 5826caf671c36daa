"""Keys: the right owner, refused at once when revoked, served on when identity is away."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.domain import Principal
from crosslogic_gateway.keys import KeyCache

KEY = "clsk_live_" + "a" * 32
OWNER = Principal("org", "env", "key", "", None, "salt", None)


class ManualClock:
    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.at)


class Source:
    """Answers with what it was told; counts how often it was asked."""

    def __init__(self, answer: Principal | CodedError) -> None:
        self.answer = answer
        self.asked = 0
        self.gate: asyncio.Event | None = None

    async def resolve(self, key_sha256: bytes) -> Principal:
        assert len(key_sha256) == 32
        self.asked += 1
        answer = self.answer
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(answer, CodedError):
            raise answer
        return answer


def missing() -> Source:
    return Source(CodedError(ErrorCode.NOT_FOUND))


async def refusal(cache: KeyCache, secret: str = KEY) -> ErrorCode:
    with pytest.raises(CodedError) as caught:
        await cache.resolve(secret)
    return caught.value.code


async def test_a_known_key_is_not_asked_for_again_within_a_minute() -> None:
    identity, clock = Source(OWNER), ManualClock()
    cache = KeyCache(shared=missing(), identity=identity, clock=clock)
    assert cache.cached(KEY) is None
    assert await cache.resolve(KEY) == OWNER
    assert cache.cached(KEY) == OWNER
    clock.at += 59
    assert await cache.resolve(KEY) == OWNER
    assert identity.asked == 1
    clock.at += 2
    assert cache.cached(KEY) is None
    await cache.resolve(KEY)
    assert identity.asked == 2


@pytest.mark.parametrize("secret", ["", "x", KEY[:-1], KEY + "0", KEY.upper(), "clsk_live_" + "g" * 32, KEY + "\n"])
async def test_what_is_no_key_is_refused_without_asking_anybody(secret: str) -> None:
    identity = Source(OWNER)
    cache = KeyCache(shared=missing(), identity=identity, clock=ManualClock())
    assert await refusal(cache, secret) == ErrorCode.INVALID_API_KEY
    assert identity.asked == 0


async def test_many_requests_with_a_new_key_ask_once() -> None:
    identity = Source(OWNER)
    identity.gate = asyncio.Event()
    cache = KeyCache(shared=missing(), identity=identity, clock=ManualClock())
    waiting = [asyncio.create_task(cache.resolve(KEY)) for _ in range(50)]
    await asyncio.sleep(0)
    identity.gate.set()
    assert await asyncio.gather(*waiting) == [OWNER] * 50
    assert identity.asked == 1


async def test_a_revoked_key_is_asked_for_again_and_refused() -> None:
    identity = Source(OWNER)
    cache = KeyCache(shared=missing(), identity=identity, clock=ManualClock())
    await cache.resolve(KEY)
    identity.answer = CodedError(ErrorCode.INVALID_API_KEY)
    cache.forget(api_key_id="key")
    assert cache.cached(KEY) is None
    assert await refusal(cache) == ErrorCode.INVALID_API_KEY


@pytest.mark.parametrize("scope", [{"org_id": "org"}, {"environment_id": "env"}])
async def test_suspending_an_owner_reaches_all_its_keys(scope: dict[str, str]) -> None:
    identity = Source(OWNER)
    cache = KeyCache(shared=missing(), identity=identity, clock=ManualClock())
    await cache.resolve(KEY)
    identity.answer = CodedError(ErrorCode.TENANT_SUSPENDED)
    cache.forget(**scope)
    assert await refusal(cache) == ErrorCode.TENANT_SUSPENDED


async def test_a_changed_plan_reaches_the_keys_on_it_and_no_others() -> None:
    identity = Source(replace(OWNER, plan="gold"))
    cache = KeyCache(shared=missing(), identity=identity, clock=ManualClock())
    await cache.resolve(KEY)
    await cache.forget_plan("silver")
    assert cache.cached(KEY) is not None
    await cache.forget_plan("gold")
    assert cache.cached(KEY) is None


async def test_a_suspended_tenant_that_asks_on_costs_identity_little_and_comes_back_soon() -> None:
    identity, clock = Source(OWNER), ManualClock()
    identity.answer = CodedError(ErrorCode.TENANT_SUSPENDED)
    cache = KeyCache(shared=missing(), identity=identity, clock=clock)
    for _ in range(100):
        assert await refusal(cache) == ErrorCode.TENANT_SUSPENDED
    assert identity.asked == 1
    identity.answer = OWNER
    clock.at += 0.6
    assert await cache.resolve(KEY) == OWNER


async def test_forgetting_one_tenant_of_many_looks_at_no_other() -> None:
    class Many:
        async def resolve(self, key_sha256: bytes) -> Principal:
            number = int.from_bytes(key_sha256[:4], "big")
            return replace(OWNER, org_id=f"o{number % 20}", environment_id=f"e{number % 60}", api_key_id=f"k{number}")

    cache = KeyCache(shared=missing(), identity=Many(), clock=ManualClock(), max_entries=200)
    secrets = [f"clsk_live_{number:032x}" for number in range(600)]
    owners = {secret: await cache.resolve(secret) for secret in secrets}
    assert len(cache._index) == len(cache._entries) == 200
    for scope in ("org_id", "environment_id", "api_key_id"):
        doomed = getattr(owners[secrets[-1]], scope)
        cache.forget(**{scope: doomed})
        for secret in secrets[-200:]:
            if getattr(owners[secret], scope) == doomed:
                assert cache.cached(secret) is None
        assert len(cache._index) == len(cache._entries)
        await cache.resolve(secrets[-1])
    assert len(cache._entries) > 100


async def test_a_revocation_that_crosses_an_answer_on_its_way_wins() -> None:
    identity = Source(OWNER)
    identity.gate = asyncio.Event()
    cache = KeyCache(shared=missing(), identity=identity, clock=ManualClock())
    crossing = asyncio.create_task(cache.resolve(KEY))
    await asyncio.sleep(0.001)
    cache.forget(api_key_id="key")
    identity.answer = CodedError(ErrorCode.INVALID_API_KEY)
    identity.gate.set()
    with pytest.raises(CodedError) as caught:
        await crossing
    assert caught.value.code == ErrorCode.INVALID_API_KEY
    assert cache.cached(KEY) is None


async def test_identity_away_serves_what_was_known_for_ten_minutes_and_no_longer() -> None:
    identity, clock = Source(OWNER), ManualClock()
    cache = KeyCache(shared=missing(), identity=identity, clock=clock)
    await cache.resolve(KEY)
    identity.answer = CodedError(ErrorCode.UNAVAILABLE)
    clock.at += 300
    assert await cache.resolve(KEY) == OWNER
    assert cache.stale_answers == 1
    clock.at += 301
    assert await refusal(cache) == ErrorCode.UNAVAILABLE


async def test_the_age_of_what_was_known_counts_from_when_identity_last_said_it() -> None:
    identity, clock = Source(OWNER), ManualClock()
    cache = KeyCache(shared=missing(), identity=identity, clock=clock)
    await cache.resolve(KEY)
    identity.answer = CodedError(ErrorCode.UNAVAILABLE)
    for _ in range(9):
        clock.at += 65
        await cache.resolve(KEY)
    clock.at += 65
    assert await refusal(cache) == ErrorCode.UNAVAILABLE


async def test_a_key_that_has_expired_is_refused_from_the_cache_too() -> None:
    clock = ManualClock()
    identity = Source(replace(OWNER, expires_at=clock.now() + timedelta(seconds=5)))
    cache = KeyCache(shared=missing(), identity=identity, clock=clock)
    await cache.resolve(KEY)
    clock.at += 6
    assert cache.cached(KEY) is None
    assert await refusal(cache) == ErrorCode.INVALID_API_KEY


async def test_memory_is_bounded_however_many_keys_are_tried() -> None:
    cache = KeyCache(shared=missing(), identity=Source(OWNER), clock=ManualClock(), max_entries=10)
    for number in range(100):
        await cache.resolve(f"clsk_live_{number:032x}")
    assert len(cache._entries) == 10


async def test_the_shared_cache_spares_identity() -> None:
    identity = Source(OWNER)
    cache = KeyCache(shared=Source(OWNER), identity=identity, clock=ManualClock())
    assert await cache.resolve(KEY) == OWNER
    assert identity.asked == 0
