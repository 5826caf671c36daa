"""What gateways are told to forget, and what the shared cache forgets."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.metrics import Metrics
from crosslogic_identity.domain import Revocation
from crosslogic_identity.metrics import IdentityMetrics
from crosslogic_identity.revocations import RevocationHub, Watcher, revocation_of
from crosslogic_identity.shared_cache import MAX_WRITES, SharedCache, entry_key
from tests.fakes.identity_store import FakeClock

PRINCIPAL = pb.Principal(org_id="o")
KEY = bytes(32)


async def nothing() -> None:
    """A cache that forgets at once."""


def hub(max_queued: int = 3, max_watchers: int = 2) -> RevocationHub:
    return RevocationHub(
        before_push=nothing, metrics=IdentityMetrics(Metrics()), max_queued=max_queued, max_watchers=max_watchers
    )


async def announcing(payloads: Sequence[str | None]) -> AsyncIterator[str | None]:
    for payload in payloads:
        yield payload


async def heard(watcher: Watcher, count: int) -> list[Revocation | None]:
    return [await asyncio.wait_for(watcher.next(), 1) for _ in range(count)]


async def test_a_new_watcher_is_first_told_to_forget_everything() -> None:
    with hub().watching() as watcher:
        assert await heard(watcher, 1) == [None]


async def test_every_watcher_hears_every_revocation_in_order() -> None:
    subject = hub()
    with subject.watching() as one, subject.watching() as other:
        await heard(one, 1)
        await heard(other, 1)
        await subject.run(announcing(["org:1", "environment:2", "api_key:3"]))
        expected = [Revocation("org", "1"), Revocation("environment", "2"), Revocation("api_key", "3")]
        assert await heard(one, 3) == expected
        assert await heard(other, 3) == expected


async def test_a_watcher_that_falls_behind_is_told_to_forget_everything_instead_of_missing_one() -> None:
    subject = hub(max_queued=3)
    with subject.watching() as slow:
        await heard(slow, 1)
        await subject.run(announcing(["org:1", "org:2", "org:3", "org:4", "org:5"]))
        assert await heard(slow, 2) == [None, Revocation("org", "5")]


async def test_a_listener_that_was_away_makes_everybody_forget_everything() -> None:
    subject = hub()
    with subject.watching() as watcher:
        await heard(watcher, 1)
        await subject.run(announcing(["org:1", None]))
        assert await heard(watcher, 1) == [None]


def test_an_announcement_of_a_newer_version_is_never_ignored() -> None:
    for payload in ("team:1", "", "org:", "org"):
        assert revocation_of(payload) is None


async def test_redis_forgets_before_a_gateway_is_told_to_ask_again() -> None:
    order: list[str] = []

    async def forget() -> None:
        await asyncio.sleep(0)
        order.append("forgotten")

    subject = RevocationHub(before_push=forget, metrics=IdentityMetrics(Metrics()))
    with subject.watching() as watcher:
        await heard(watcher, 1)
        running = asyncio.create_task(subject.run(announcing(["org:1"])))
        await heard(watcher, 1)
        order.append("told")
        await running
    assert order == ["forgotten", "told"]


async def test_watchers_are_bounded_and_a_place_is_free_again_when_one_leaves() -> None:
    subject = hub(max_watchers=1)
    with subject.watching(), pytest.raises(CodedError) as raised, subject.watching():
        pass
    assert raised.value.code == ErrorCode.OVERLOADED
    with subject.watching():
        pass


async def test_a_stopping_service_ends_every_watch_so_that_gateways_go_elsewhere() -> None:
    subject = hub()
    with subject.watching() as watcher:
        await heard(watcher, 1)
        waiting = asyncio.create_task(watcher.next())
        await asyncio.sleep(0)
        subject.close()
        with pytest.raises(CodedError) as raised:
            await waiting
    assert raised.value.code == ErrorCode.UNAVAILABLE
    with pytest.raises(CodedError), subject.watching():
        pass


class FakeRedis:
    """Answers, fails or hangs."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.mode = "answers"
        self.calls = 0

    async def get(self, key: str) -> bytes | None:
        await self._reached()
        return self.values.get(key)

    async def set(self, key: str, value: bytes, *, ex: int) -> None:
        assert 0 < ex <= 60
        await self._reached()
        self.values[key] = value

    async def incr(self, key: str) -> None:
        await self._reached()
        self.values[key] = str(int(self.values.get(key, b"0")) + 1).encode()

    async def _reached(self) -> None:
        self.calls += 1
        if self.mode == "hangs":
            await asyncio.Event().wait()
        if self.mode == "refuses":
            raise RedisConnectionError("refused")


class CacheWorld:
    def __init__(self) -> None:
        self.redis = FakeRedis()
        self.clock = FakeClock()
        self.cache = SharedCache(
            self.redis,  # type: ignore[arg-type]  # three methods of it
            clock=self.clock,
            metrics=IdentityMetrics(Metrics()),
            budget_s=0.02,
        )

    def served(self) -> bytes | None:
        """What a gateway takes from Redis."""
        entry = self.redis.values.get(entry_key(KEY))
        if entry is None:
            return None
        stamp, _, principal = entry.partition(b":")
        return principal if stamp == self.redis.values.get("identity:generation", b"0") else None

    async def resolve(self) -> None:
        generation = await self.cache.generation()
        assert generation is not None
        await self.keep(generation)

    async def keep(self, generation: bytes) -> None:
        self.cache.put(KEY, PRINCIPAL, generation)
        await asyncio.sleep(0.001)


@pytest.fixture
def world() -> CacheWorld:
    return CacheWorld()


async def test_a_resolved_key_is_kept_until_something_is_revoked(world: CacheWorld) -> None:
    await world.resolve()
    assert world.served() == PRINCIPAL.SerializeToString()
    await world.cache.forget_all()
    assert world.served() is None
    await world.resolve()
    assert world.served() is not None


async def test_a_resolve_that_crosses_a_revocation_leaves_nothing_usable_behind(world: CacheWorld) -> None:
    generation = await world.cache.generation()
    assert generation is not None
    # The database was read here, and then the key was revoked.
    await world.cache.forget_all()
    await world.keep(generation)
    assert world.served() is None


@pytest.mark.parametrize("mode", ["hangs", "refuses"])
async def test_a_sick_redis_costs_a_resolve_its_budget_once_and_then_nothing(world: CacheWorld, mode: str) -> None:
    world.redis.mode = mode
    assert await world.cache.generation() is None
    for _ in range(100):
        assert await world.cache.generation() is None
    assert world.redis.calls == 1
    world.clock.pass_by(1.0)
    world.redis.mode = "answers"
    assert await world.cache.generation() == b"0"


async def test_a_hung_redis_never_holds_up_a_resolve_that_wants_to_keep_its_answer(world: CacheWorld) -> None:
    world.redis.mode = "hangs"
    for _ in range(10 * MAX_WRITES):
        world.cache.put(KEY, PRINCIPAL, b"0")
    await asyncio.sleep(0)
    assert world.redis.calls <= MAX_WRITES
    await asyncio.sleep(0.05)


async def test_nothing_is_kept_while_redis_has_not_heard_of_a_revocation(world: CacheWorld) -> None:
    await world.resolve()
    world.redis.mode = "hangs"
    await world.cache.forget_all()
    world.redis.mode = "answers"
    world.clock.pass_by(5.0)
    assert await world.cache.generation() is None


async def test_redis_hears_of_a_revocation_as_soon_as_it_is_back_and_gateways_are_told_again(
    world: CacheWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosslogic_identity.shared_cache.RETRY_S", 0.001)
    await world.resolve()
    told = asyncio.Event()
    running = asyncio.create_task(world.cache.run(told.set))
    world.redis.mode = "hangs"
    await world.cache.forget_all()
    await asyncio.sleep(0.05)
    assert not told.is_set()
    assert world.served() is not None
    world.redis.mode = "answers"
    await asyncio.wait_for(told.wait(), 1)
    assert world.served() is None
    world.clock.pass_by(1.0)
    assert await world.cache.generation() is not None
    running.cancel()


async def test_revocations_are_not_held_up_one_after_the_other_by_a_hung_redis(world: CacheWorld) -> None:
    world.redis.mode = "hangs"
    for _ in range(50):
        await world.cache.forget_all()
    assert world.redis.calls == 1


# Streams that are cut


async def test_a_cut_reaches_a_gateway_that_fell_behind() -> None:
    subject = hub(max_queued=3)
    with subject.watching() as slow:
        await heard(slow, 1)
        await subject.run(announcing(["cut_org:1", "org:2", "org:3", "org:4", "org:5"]))
        assert await heard(slow, 3) == [None, Revocation("org", "1", cut_streams=True), Revocation("org", "5")]


async def test_a_gateway_that_was_away_hears_of_a_cut_when_it_is_back() -> None:
    subject = hub()
    await subject.run(announcing(["cut_environment:1", "org:2"]))
    with subject.watching() as back:
        assert await heard(back, 2) == [None, Revocation("environment", "1", cut_streams=True)]


async def test_a_tenant_that_was_let_in_again_is_not_cut_by_an_old_message() -> None:
    subject = hub()
    await subject.run(announcing(["cut_org:1", "org:1"]))
    with subject.watching() as back:
        assert await heard(back, 1) == [None]
        await subject.run(announcing(["plan:gold"]))
        assert await heard(back, 1) == [Revocation("plan", "gold")]
