"""`Idempotency-Key` over a real Redis: what a client gets who repeats, and what it is charged for."""

import asyncio
import base64
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import ClientResponse, ClientSession, web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry
from yarl import URL

from crosslogic_common.clock import SystemClock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.redis import open_redis
from crosslogic_common.seal import Sealer
from crosslogic_common.settings import Secret
from crosslogic_gateway.http import REQUEST_ID, SHOWN_REQUEST_ID, answer_headers, error_response, whole_response
from crosslogic_gateway.idempotency.answers import Idempotency, IdempotencyLimits
from crosslogic_gateway.idempotency.store import RedisAnswers, StoreLimits
from crosslogic_gateway.idempotency.wiring import derived_key
from tests.fakes.tcp_proxy import TcpProxy

KEY = Secret(base64.b64encode(bytes(range(32))).decode())
CHUNK = b'data: {"choices": [{"text": "word"}]}\n\n'
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Engine:
    """What is asked in the end: it counts, and answers as it is told."""

    runs: list[str] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    chunks: int = 3
    fail: list[CodedError] = field(default_factory=list)
    break_off: bool = False
    sent: int = 0
    ended: int = 0

    async def whole(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.runs.append(request[REQUEST_ID])
        await self.go_on.wait()
        if self.fail:
            raise self.fail.pop()
        self.ended += 1
        return whole_response(request, status=200, content_type="application/json", body=b'{"echo": %s}' % body)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """As the gateway streams: past aiohttp, straight to the transport."""
        self.runs.append(request[REQUEST_ID])
        response = web.StreamResponse(headers=answer_headers(request, "text/event-stream"))
        await response.prepare(request)
        transport = request.transport
        assert transport is not None
        for number in range(self.chunks):
            if number == 1:
                await self.go_on.wait()
            while transport.get_write_buffer_size() >= 65_536:
                await asyncio.sleep(0.001)
            transport.write(CHUNK)
            self.sent += len(CHUNK)
        if self.break_off:
            await response.write(b'data: {"error": {}}\n\n')
            response.force_close()
        self.ended += 1
        return response


class Worker:
    """A gateway worker as far as idempotency reaches."""

    def __init__(self, store: RedisAnswers, engine: Engine, limits: IdempotencyLimits) -> None:
        self.registry = CollectorRegistry()
        self.idempotency = Idempotency(
            store=store, secret=derived_key(KEY, "names"), limits=limits, registry=self.registry
        )
        self._engine = engine
        self._ids = Uuid7Source()
        app = web.Application(client_max_size=10 * 2**20)
        app.add_routes([web.post("/whole", self._keyed(engine.whole)), web.post("/stream", self._keyed(engine.stream))])
        self.server = TestServer(app)

    def _keyed(self, run: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            request[REQUEST_ID] = self._ids.next_text()
            request[SHOWN_REQUEST_ID] = request.headers.get("X-Request-ID", request[REQUEST_ID])
            try:
                return await self.idempotency.answer(request, scope=request.headers["X-Who"], run=run)
            except CodedError as error:
                return error_response(request, error)

        return handle

    def counted(self, outcome: str) -> float:
        return self.registry.get_sample_value("crosslogic_idempotent_requests_total", {"outcome": outcome}) or 0.0


class World:
    """Two workers over one Redis, and a client."""

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self.engine = Engine()
        self.session = ClientSession()
        self._stack = contextlib.AsyncExitStack()

    async def worker(
        self,
        *,
        lease_s: float = 8.0,
        # A busy machine must not look like a Redis that is away.
        budget_s: float = 10.0,
        limits: IdempotencyLimits | None = None,
        max_bytes_a_caller: int = 2**30,
    ) -> Worker:
        redis = await self._stack.enter_async_context(
            open_redis(self.redis_url, timeout_s=budget_s, connect_timeout_s=budget_s)
        )
        store = RedisAnswers(
            redis,
            sealer=Sealer(derived_key(KEY, "answers")),
            clock=SystemClock(),
            limits=StoreLimits(lease_s=lease_s, budget_s=budget_s, max_bytes_a_caller=max_bytes_a_caller),
        )
        made = Worker(store, self.engine, limits or IdempotencyLimits())
        self._stack.push_async_callback(made.idempotency.drain, 5.0)
        await self._stack.enter_async_context(made.server)
        return made

    async def ask(
        self, worker: Worker, path: str, *, key: str = "k", body: bytes = b'"hello"', who: str = "org-a"
    ) -> ClientResponse:
        headers = {"Idempotency-Key": key, "X-Who": who, "X-Request-ID": "the-clients-own"}
        return await self.session.post(worker.server.make_url(path), data=body, headers=headers)

    async def close(self) -> None:
        self.engine.go_on.set()
        await self.session.close()
        await self._stack.aclose()


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    made = World(redis_url)
    try:
        yield made
    finally:
        await made.close()


async def until(check: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.005)


async def test_a_repeat_gets_the_first_answer_and_nobody_works_twice(world: World) -> None:
    one, other = await world.worker(), await world.worker()
    world.engine.go_on.set()
    first = await world.ask(one, "/whole")
    body = await first.read()
    assert (first.status, "Idempotent-Replayed" in first.headers) == (200, False)
    await until(lambda: not len(one.idempotency))
    for worker in (one, other):
        again = await world.ask(worker, "/whole")
        assert (again.status, await again.read()) == (200, body)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.headers["X-Request-ID"] == "the-clients-own"
        assert again.headers["X-CrossLogic-Request-ID"] == world.engine.runs[0], "the id in the ledger is the first's"
        assert again.headers["Content-Type"] == "application/json"
    assert len(world.engine.runs) == 1
    assert (one.counted("first"), one.counted("replayed"), other.counted("replayed")) == (1, 1, 1)


async def test_a_repeated_stream_is_streamed_again_from_the_start(world: World) -> None:
    one, other = await world.worker(), await world.worker()
    world.engine.go_on.set()
    first = await world.ask(one, "/stream")
    assert await first.read() == CHUNK * 3
    await until(lambda: not len(one.idempotency))
    again = await world.ask(other, "/stream")
    assert (await again.read(), again.headers["Content-Type"]) == (CHUNK * 3, "text/event-stream")
    assert len(world.engine.runs) == 1


@pytest.mark.parametrize("path", ["/whole", "/stream"])
async def test_a_repeat_while_the_first_runs_joins_it_on_the_same_and_on_another_worker(
    world: World, path: str
) -> None:
    one, other = await world.worker(), await world.worker()
    first = asyncio.create_task(world.ask(one, path))
    await until(lambda: len(world.engine.runs) == 1)
    joined = [asyncio.create_task(world.ask(worker, path)) for worker in (one, other, other)]
    await until(lambda: len(other.idempotency) == 1)
    if path == "/stream":
        # What there is so far is passed on while the first runs, from one worker to the other too.
        for task in (first, *joined):
            answer = await task
            assert await answer.content.readexactly(len(CHUNK)) == CHUNK
    world.engine.go_on.set()
    answers = [await task for task in (first, *joined)]
    bodies = {await answer.read() for answer in answers}
    assert bodies == {CHUNK * 2 if path == "/stream" else b'{"echo": "hello"}'}
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true", "true", "true"]
    assert len(world.engine.runs) == 1


async def test_another_body_or_path_under_the_same_key_is_refused(world: World) -> None:
    one, other = await world.worker(), await world.worker()
    first = asyncio.create_task(world.ask(one, "/whole"))
    await until(lambda: len(world.engine.runs) == 1)

    async def refusals() -> set[tuple[int, str]]:
        found = set()
        for worker in (one, other):
            for path, body in (("/whole", b'"other"'), ("/stream", b'"hello"')):
                answer = await world.ask(worker, path, body=body)
                found.add((answer.status, (await answer.json())["error"]["param"]))
        return found

    assert await refusals() == {(409, "Idempotency-Key")}, "while the first runs"
    world.engine.go_on.set()
    await (await first).read()
    await until(lambda: not len(one.idempotency))
    assert await refusals() == {(409, "Idempotency-Key")}, "afterwards"
    assert len(world.engine.runs) == 1


async def test_two_tenants_with_the_same_key_never_meet(world: World) -> None:
    one = await world.worker()
    world.engine.go_on.set()
    for who, body in (("org-a", b'"a"'), ("org-b", b'"b"')):
        answer = await world.ask(one, "/whole", who=who, body=body)
        assert await answer.read() == b'{"echo": %s}' % body
    assert len(world.engine.runs) == 2


async def test_a_client_that_left_finds_its_answer_when_it_comes_back(world: World) -> None:
    one = await world.worker()
    first = asyncio.create_task(world.ask(one, "/stream"))
    answer = await first
    await answer.content.readexactly(len(CHUNK))
    answer.close()
    world.engine.go_on.set()
    await until(lambda: world.engine.ended == 1)
    again = await world.ask(one, "/stream")
    assert await again.read() == CHUNK * 3
    assert len(world.engine.runs) == 1, "it would have paid twice"


async def test_a_failed_request_may_be_tried_again_under_its_key(world: World) -> None:
    one, other = await world.worker(), await world.worker()
    world.engine.go_on.set()
    world.engine.fail = [CodedError(ErrorCode.NO_CAPACITY, retry_after_s=3.0)]
    refused = await world.ask(one, "/whole")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "3")
    await until(lambda: not len(one.idempotency))
    answer = await world.ask(other, "/whole")
    assert (answer.status, "Idempotent-Replayed" in answer.headers) == (200, False)
    world.engine.break_off = True
    broken = await world.ask(one, "/stream", key="s")
    assert (await broken.read()).endswith(b'{"error": {}}\n\n')
    await until(lambda: not len(one.idempotency))
    world.engine.break_off = False
    mended = await world.ask(one, "/stream", key="s")
    assert await mended.read() == CHUNK * 3, "a broken stream is no answer"


async def test_a_worker_that_died_blocks_its_keys_for_seconds_and_is_not_charged_beside_the_next(
    world: World,
) -> None:
    dead, alive = await world.worker(lease_s=1.5), await world.worker(lease_s=1.5)
    first = asyncio.create_task(world.ask(dead, "/whole"))
    await until(lambda: len(world.engine.runs) == 1)
    # As SIGKILL: nothing is told any more, neither to Redis nor to the client.
    for task in asyncio.all_tasks():
        if task.get_name() == "idempotency claim":
            task.cancel()
    joined = asyncio.create_task(world.ask(alive, "/whole"))
    await until(lambda: len(world.engine.runs) == 2)
    assert world.engine.runs[0] == world.engine.runs[1], "one id in the ledger: charged once"
    world.engine.go_on.set()
    answer = await joined
    assert (answer.status, await answer.read()) == (200, b'{"echo": "hello"}')
    with contextlib.suppress(OSError):
        await first


async def test_answers_are_sealed_in_redis_and_gone_after_their_time(world: World) -> None:
    one = await world.worker()
    world.engine.go_on.set()
    answer = await world.ask(one, "/whole", body=b'"a secret of the tenant"', key="key-of-the-tenant")
    await answer.read()
    await until(lambda: not len(one.idempotency))
    async with open_redis(world.redis_url) as redis:
        names = [name async for name in redis.scan_iter("*")]
        assert len(names) == 3
        dumps = b"".join([name + (await redis.dump(name) or b"") for name in names])
        for word in (b"secret", b"key-of-the-tenant", b"org-a", b"echo"):
            assert word not in dumps
        lives = [await redis.pttl(name) for name in names]
        assert all(86_000_000 < life <= 86_400_000 for life in lives)


async def test_an_answer_too_large_to_keep_is_delivered_once_and_not_worked_for_again(world: World) -> None:
    limits = IdempotencyLimits(max_answer_bytes=100_000)
    one, other = await world.worker(limits=limits), await world.worker(limits=limits)
    world.engine.go_on.set()
    world.engine.chunks = 20_000
    first = await world.ask(one, "/stream")
    assert await first.read() == CHUNK * 20_000
    await until(lambda: not len(one.idempotency))
    for worker in (one, other):
        again = await world.ask(worker, "/stream")
        assert (again.status, "too large" in (await again.json())["error"]["message"]) == (409, True)
    assert len(world.engine.runs) == 1


async def test_a_large_answer_comes_back_whole(world: World) -> None:
    one, other = await world.worker(), await world.worker()
    world.engine.go_on.set()
    body = b'"' + base64.b64encode(os.urandom(750_000)) + b'"'
    first = await world.ask(one, "/whole", body=body)
    expected = await first.read()
    await until(lambda: not len(one.idempotency))
    again = await world.ask(other, "/whole", body=body)
    assert await again.read() == expected == b'{"echo": %s}' % body
    assert len(world.engine.runs) == 1


async def test_one_caller_cannot_fill_redis(world: World) -> None:
    one = await world.worker(max_bytes_a_caller=1_000)
    world.engine.go_on.set()
    body = b'"' + b"x" * 600 + b'"'
    for number in range(3):
        await (await world.ask(one, "/whole", key=f"k{number}", body=body)).read()
    await until(lambda: not len(one.idempotency))
    statuses = [(await world.ask(one, "/whole", key=f"k{number}", body=body)).status for number in range(3)]
    assert statuses == [200, 409, 409]
    assert (await world.ask(one, "/whole", key="k0", body=body, who="org-b")).status == 200
    assert len(world.engine.runs) == 4


async def test_a_reader_who_stops_reading_does_not_fill_the_memory(world: World) -> None:
    limits = IdempotencyLimits(max_answer_bytes=100_000, stall_timeout_s=1.0)
    one = await world.worker(limits=limits)
    world.engine.go_on.set()
    world.engine.chunks = 600_000
    first = await world.ask(one, "/stream")
    before = -1
    while world.engine.sent != before:
        before = world.engine.sent
        await asyncio.sleep(0.3)
    assert world.engine.sent < 16_000_000 < 600_000 * len(CHUNK), "the engine was not held up"
    # The reader is given up; the request goes on without it, for whoever repeats it.
    await until(lambda: world.engine.ended == 1, timeout_s=60.0)
    first.close()


@pytest.mark.parametrize("how", ["refuses", "hangs"])
async def test_without_redis_requests_go_on_and_a_worker_knows_its_own_repeats(
    world: World, redis_url: str, how: str
) -> None:
    url = URL(redis_url)
    assert url.host is not None
    assert url.port is not None
    async with TcpProxy(url.host, url.port) as proxy:
        world.redis_url = str(url.with_host("127.0.0.1").with_port(proxy.port))
        one, other = await world.worker(budget_s=0.3), await world.worker(budget_s=0.3)
        if how == "hangs":
            proxy.silence()
        else:
            proxy.refuse()
            await proxy.cut()
        joined = [asyncio.create_task(world.ask(one, "/whole")) for _ in range(2)]
        await until(lambda: len(world.engine.runs) == 1)
        world.engine.go_on.set()
        answers = [await task for task in joined]
        answers.append(await world.ask(one, "/whole"))
        assert [answer.status for answer in answers] == [200] * 3
        assert {answer.headers["X-CrossLogic-Idempotency"] for answer in answers} == {"degraded"}
        assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true", "true"]
        assert len(world.engine.runs) == 1
        assert (await world.ask(one, "/whole", body=b'"other"')).status == 409
        assert (await world.ask(other, "/whole")).status == 200
        assert len(world.engine.runs) == 2, "another worker cannot know"
        assert one.counted("degraded") == 3
        proxy.speak()


async def test_redis_that_dies_while_a_request_runs_loses_no_answer(world: World, redis_url: str) -> None:
    url = URL(redis_url)
    assert url.host is not None
    assert url.port is not None
    async with TcpProxy(url.host, url.port) as proxy:
        world.redis_url = str(url.with_host("127.0.0.1").with_port(proxy.port))
        one = await world.worker(budget_s=0.3)
        first = asyncio.create_task(world.ask(one, "/whole"))
        await until(lambda: len(world.engine.runs) == 1)
        proxy.refuse()
        await proxy.cut()
        world.engine.go_on.set()
        answer = await first
        assert (answer.status, await answer.read()) == (200, b'{"echo": "hello"}')
        await until(lambda: not len(one.idempotency))
        again = await world.ask(one, "/whole")
        assert (again.status, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert len(world.engine.runs) == 1


async def test_a_repeat_that_waits_on_another_worker_outlives_a_moment_without_redis(
    world: World, redis_url: str
) -> None:
    one = await world.worker()
    url = URL(redis_url)
    assert url.host is not None
    assert url.port is not None
    async with TcpProxy(url.host, url.port) as proxy:
        world.redis_url = str(url.with_host("127.0.0.1").with_port(proxy.port))
        other = await world.worker()
        first = asyncio.create_task(world.ask(one, "/whole"))
        await until(lambda: len(world.engine.runs) == 1)
        joined = asyncio.create_task(world.ask(other, "/whole"))
        async with open_redis(redis_url, timeout_s=10.0) as redis, asyncio.timeout(20):
            (entry,) = [name async for name in redis.scan_iter("idempotency:*")]
            while not await redis.hexists(entry, "wanted"):
                await asyncio.sleep(0.01)
        proxy.refuse()
        await proxy.cut()
        world.engine.go_on.set()
        answer = await first
        await proxy.accept_again()
        repeated = await joined
        assert (repeated.status, await repeated.read()) == (200, await answer.read())
        assert len(world.engine.runs) == 1
        proxy.refuse()
        await proxy.cut()


async def test_an_answer_that_somebody_else_wrote_into_redis_is_given_to_nobody(world: World) -> None:
    one, other = await world.worker(), await world.worker()
    world.engine.go_on.set()
    for key, body in (("a", b'"of a"'), ("b", b'"of b"')):
        await (await world.ask(one, "/whole", key=key, body=body)).read()
    await until(lambda: not len(one.idempotency))
    async with open_redis(world.redis_url, timeout_s=10.0) as redis:
        lists = [name async for name in redis.scan_iter("*:parts")]
        parts = [await redis.lrange(name, 0, -1) for name in lists]
        for name, moved in zip(lists, reversed(parts), strict=True):
            await redis.delete(name)
            await redis.rpush(name, *moved)
    answer = await world.ask(other, "/whole", key="a", body=b'"of a"')
    assert answer.status == 500
    assert b"of" not in await answer.read()


@pytest.mark.parametrize("key", ["", "k" * 256, "schlüssel", "tab\there"])
async def test_a_key_that_is_no_key_is_refused(world: World, key: str) -> None:
    one = await world.worker()
    answer = await world.ask(one, "/whole", key=key)
    assert (answer.status, (await answer.json())["error"]["param"]) == (400, "Idempotency-Key")
    assert world.engine.runs == []
