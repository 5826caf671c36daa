"""Identity as gateways meet it: over mutual TLS, on real PostgreSQL and Redis, two replicas."""

import asyncio
import contextlib
import hashlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
import redis.asyncio
from aiohttp.test_utils import TestServer

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic.identity.v1 import identity_pb2_grpc as rpc
from crosslogic_common.errors import CODE_METADATA
from crosslogic_common.process import StartError
from crosslogic_common.settings import Secret
from crosslogic_common.tls import Channels
from crosslogic_dev.certificates import DevelopmentCa
from crosslogic_dev.ports import free_port
from crosslogic_dev.processes import ProcessTable
from crosslogic_dev.redis import start_redis
from crosslogic_dev.run_dir import RunDir
from crosslogic_identity.main import serve
from crosslogic_identity.settings import IdentitySettings
from tests.fakes.admin_neighbours import TOKEN, AdminClient, Neighbours


@pytest.fixture(scope="module")
def ca() -> Iterator[DevelopmentCa]:
    with tempfile.TemporaryDirectory() as folder:
        yield DevelopmentCa(Path(folder))


class OwnRedis:
    """A Redis that a test may stop."""

    def __init__(self, folder: Path) -> None:
        self._run_dir = RunDir(folder / "run")
        self._run_dir.make()
        self._table = ProcessTable(self._run_dir)
        self._port = free_port()
        self.url = self.start()

    def start(self) -> str:
        return start_redis(self._table, self._run_dir, port=self._port)

    def signal(self, number: signal.Signals) -> None:
        pid = self._table.pid("redis")
        assert pid is not None
        os.kill(pid, number)

    def stop(self) -> None:
        with contextlib.suppress(AssertionError):
            self.signal(signal.SIGCONT)
        self._table.stop(["redis"], grace_s=2.0)


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    with tempfile.TemporaryDirectory(prefix="cl-redis-") as folder:
        server = OwnRedis(Path(folder))
        try:
            yield server
        finally:
            server.stop()


class Suite:
    """Two replicas of identity, and what a gateway and an operator can do with them."""

    def __init__(self, ca: DevelopmentCa, ports: list[int], pg_url: str, redis_url: str) -> None:
        self.ca = ca
        self.ports = ports
        self.pg_url = pg_url
        self.redis_url = redis_url
        self.redis = redis.asyncio.Redis.from_url(redis_url, socket_timeout=2.0)
        self.channels = Channels(ca.service("gateway"))

    def settings(self, replica: int) -> IdentitySettings:
        files = self.ca.service("identity")
        return IdentitySettings(
            listen=f"127.0.0.1:{self.ports[replica]}",
            metrics_listen="",
            log_level="INFO",
            shutdown_grace_s=2.0,
            tls_cert_file=files.cert_file,
            tls_key_file=files.key_file,
            tls_ca_file=files.ca_file,
            migrate=True,
            database_url=Secret(self.pg_url),
            redis_url=Secret(self.redis_url),
            pool_size=4,
        )

    def stub(self, replica: int = 0) -> Any:
        target = f"127.0.0.1:{self.ports[replica]}"
        return rpc.IdentityServiceStub(self.channels.service("identity", target))

    async def make_key(self) -> tuple[pb.ApiKey, bytes]:
        stub = self.stub()
        org = (await stub.CreateOrg(pb.CreateOrgRequest(name="Acme"))).org
        made = await stub.CreateEnvironment(pb.CreateEnvironmentRequest(org_id=org.id, name="production"))
        key = await stub.CreateApiKey(pb.CreateApiKeyRequest(environment_id=made.environment.id))
        return key.api_key, hashlib.sha256(key.secret.encode()).digest()

    async def resolve(self, key_sha256: bytes, replica: int = 0) -> pb.Principal:
        response = await self.stub(replica).ResolveApiKey(pb.ResolveApiKeyRequest(key_sha256=key_sha256), timeout=5)
        principal: pb.Principal = response.principal
        return principal

    async def resolve_until_refused(self, key_sha256: bytes) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            while True:
                await self.resolve(key_sha256, replica=1)

    async def cached(self, key_sha256: bytes) -> pb.Principal | None:
        """What a gateway takes from Redis, as services/identity/README.md says."""
        found: list[Any] = await self.redis.mget("identity:generation", f"identity:key:{key_sha256.hex()}")
        generation, entry = found
        stamp, _, principal = (entry or b"").partition(b":")
        return pb.Principal.FromString(principal) if entry and stamp == (generation or b"0") else None

    async def cached_soon(self, key_sha256: bytes) -> pb.Principal:
        # On a busy machine one answer of Redis may be late, and then nothing is kept for a second.
        for _ in range(300):
            await self.resolve(key_sha256)
            found = await self.cached(key_sha256)
            if found is not None:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError("nothing was kept")

    @contextlib.asynccontextmanager
    async def watching(self, replica: int) -> AsyncIterator[Any]:
        call = self.stub(replica).WatchRevocations(pb.WatchRevocationsRequest())
        first = await asyncio.wait_for(call.read(), 5)
        assert first == pb.WatchRevocationsResponse(resync=True)
        try:
            yield call
        finally:
            call.cancel()


@contextlib.asynccontextmanager
async def running(ca: DevelopmentCa, pg_url: str, redis_url: str) -> AsyncIterator[Suite]:
    stop = asyncio.Event()
    ports = [free_port()]
    ports.append(free_port(exclude=set(ports)))
    replicas: list[asyncio.Task[None]] = []
    suite = Suite(ca, ports, pg_url, redis_url)
    try:
        replicas += [asyncio.create_task(serve(suite.settings(replica), stop)) for replica in range(2)]
        for replica in range(2):
            await suite.stub(replica).ListOrgs(pb.ListOrgsRequest(), wait_for_ready=True, timeout=20)
        yield suite
    finally:
        await suite.channels.close()
        await suite.redis.aclose()
        stop.set()
        await asyncio.wait_for(asyncio.gather(*replicas), 15)


@pytest.fixture
async def suite(ca: DevelopmentCa, pg_url: str, redis_url: str) -> AsyncIterator[Suite]:
    async with running(ca, pg_url, redis_url) as made:
        yield made


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    metadata = dict(raised.value.trailing_metadata() or ())
    return raised.value.code(), str(metadata.get(CODE_METADATA, ""))


async def read(call: Any, timeout_s: float = 1.0) -> pb.WatchRevocationsResponse:
    async with asyncio.timeout(timeout_s):
        while True:
            heard: pb.WatchRevocationsResponse = await call.read()
            if heard.WhichOneof("what") != "alive":
                return heard


async def told(call: Any, expected: pb.WatchRevocationsResponse) -> float:
    """When the gateway was told, by the monotonic clock.

    On a busy machine Redis may be late, and then everything is to be forgotten too, before, after or instead.
    """
    last = 0.0
    while True:
        try:
            heard = await read(call)
        except TimeoutError:
            assert last, f"never told of {expected}"
            return last
        last = time.monotonic()
        if heard == expected:
            return last
        assert heard.resync, f"told of {heard} instead of {expected}"


# Revocations


async def test_a_revoked_key_is_pushed_by_every_replica_within_a_second_and_is_gone_everywhere(suite: Suite) -> None:
    slowest_s = 0.0
    async with suite.watching(0) as first, suite.watching(1) as second:
        for _ in range(10):
            key, digest = await suite.make_key()
            assert (await suite.resolve(digest)).api_key_id == key.id
            assert (await suite.cached_soon(digest)).api_key_id == key.id
            started = time.monotonic()
            await suite.stub(0).RevokeApiKey(pb.RevokeApiKeyRequest(id=key.id))
            for watch in (first, second):
                told_at = await told(watch, pb.WatchRevocationsResponse(api_key_id=key.id))
                slowest_s = max(slowest_s, told_at - started)
            # Told to forget, a gateway asks Redis next, and then identity.
            assert await suite.cached(digest) is None
            for replica in range(2):
                status = await refusal(suite.resolve(digest, replica))
                assert status == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")
    print(f"revoked to pushed by both replicas, slowest of 10: {slowest_s * 1000:.1f} ms")
    assert slowest_s < 1.0


async def test_every_change_of_what_a_request_may_do_is_pushed(suite: Suite) -> None:
    key, digest = await suite.make_key()
    stub = suite.stub(0)
    suspended = pb.STATUS_SUSPENDED
    async with suite.watching(1) as watch:
        await stub.UpdateOrg(pb.UpdateOrgRequest(id=key.org_id, status=suspended))
        await told(watch, pb.WatchRevocationsResponse(org_id=key.org_id))
        assert await refusal(suite.resolve(digest)) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_SUSPENDED")
        await stub.UpdateOrg(pb.UpdateOrgRequest(id=key.org_id, status=pb.STATUS_ACTIVE, name="new"))
        await told(watch, pb.WatchRevocationsResponse(org_id=key.org_id))
        await stub.UpdateEnvironment(
            pb.UpdateEnvironmentRequest(id=key.environment_id, region="eu", allowed_models=pb.ModelList(models=["m"]))
        )
        await told(watch, pb.WatchRevocationsResponse(environment_id=key.environment_id))
        principal = await suite.resolve(digest)
        assert (principal.region, list(principal.allowed_models), principal.all_models) == ("eu", ["m"], False)
        await stub.UpdateApiKey(pb.UpdateApiKeyRequest(id=key.id, allowed_models=pb.ModelList(models=["n"])))
        await told(watch, pb.WatchRevocationsResponse(api_key_id=key.id))
        assert not (await suite.resolve(digest)).allowed_models
        await stub.RotateApiKey(pb.RotateApiKeyRequest(id=key.id, overlap_s=60))
        await told(watch, pb.WatchRevocationsResponse(api_key_id=key.id))
        assert (await suite.resolve(digest)).HasField("expire_time")


async def test_a_revocation_that_crosses_resolves_leaves_no_revoked_key_in_redis(suite: Suite) -> None:
    for _ in range(20):
        key, digest = await suite.make_key()
        async with suite.watching(1) as watch:
            resolving = [asyncio.create_task(suite.resolve_until_refused(digest)) for _ in range(4)]
            await asyncio.sleep(0.005)
            await suite.stub(0).RevokeApiKey(pb.RevokeApiKeyRequest(id=key.id))
            await asyncio.wait_for(asyncio.gather(*resolving), 5)
            await read(watch)
            assert await suite.cached(digest) is None


async def test_a_replica_that_lost_its_database_connection_makes_gateways_forget_everything(
    suite: Suite, pg_url: str
) -> None:
    key, digest = await suite.make_key()
    await suite.resolve(digest)
    await suite.cached_soon(digest)
    async with suite.watching(1) as watch:
        async with await psycopg.AsyncConnection.connect(pg_url, autocommit=True) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'LISTEN%'"
            )
        # Committed while nobody may be listening.
        await suite.stub(0).RevokeApiKey(pb.RevokeApiKeyRequest(id=key.id), timeout=10)
        heard = await read(watch, 5.0)
        assert heard.resync or heard.api_key_id == key.id
        assert await suite.cached(digest) is None


async def test_a_stopping_replica_ends_its_watches_and_does_not_wait_for_them(
    ca: DevelopmentCa, pg_url: str, redis_url: str
) -> None:
    async with running(ca, pg_url, redis_url) as suite:
        call = suite.stub(0).WatchRevocations(pb.WatchRevocationsRequest())
        await call.read()
        started = time.monotonic()
    assert time.monotonic() - started < 5


# A sick Redis


async def test_a_hung_redis_neither_slows_resolves_nor_holds_up_a_revocation(
    ca: DevelopmentCa, pg_url: str, own_redis: OwnRedis
) -> None:
    async with running(ca, pg_url, own_redis.url) as suite:
        key, digest = await suite.make_key()
        await suite.resolve(digest)
        await suite.cached_soon(digest)
        async with suite.watching(1) as watch:
            own_redis.signal(signal.SIGSTOP)
            took_s = []
            for _ in range(20):
                started = time.monotonic()
                await suite.resolve(digest)
                took_s.append(time.monotonic() - started)
            started = time.monotonic()
            await suite.stub(0).RevokeApiKey(pb.RevokeApiKeyRequest(id=key.id))
            pushed_s = await told(watch, pb.WatchRevocationsResponse(api_key_id=key.id)) - started
            assert pushed_s < 1.0
            assert (await refusal(suite.resolve(digest)))[1] == "INVALID_API_KEY"
            own_redis.signal(signal.SIGCONT)
            # Whoever read the old entry after the push is told again, once Redis knows.
            assert (await read(watch, 5.0)).resync
            assert await suite.cached(digest) is None
    typical_s = sorted(took_s)[10]
    print(f"hung Redis: resolve {max(took_s) * 1000:.0f} ms at most, {typical_s * 1000:.1f} ms typically;")
    print(f"revoked to pushed {pushed_s * 1000:.0f} ms")
    # The budget is 100 ms once a second; the rest is this machine's.
    assert max(took_s) < 1.5
    assert typical_s < 0.1


async def test_a_dead_redis_costs_no_resolve(ca: DevelopmentCa, pg_url: str, own_redis: OwnRedis) -> None:
    async with running(ca, pg_url, own_redis.url) as suite:
        _, digest = await suite.make_key()
        own_redis.stop()
        for _ in range(5):
            started = time.monotonic()
            await suite.resolve(digest)
            assert time.monotonic() - started < 1.5
        own_redis.start()
        await asyncio.sleep(1.1)
        await suite.resolve(digest)
        await suite.cached_soon(digest)


async def test_a_port_that_is_taken_is_told_in_one_line_and_not_as_a_group_of_errors(suite: Suite) -> None:
    with pytest.raises(StartError):
        await asyncio.wait_for(serve(suite.settings(0), asyncio.Event()), 10)


# Who may call


async def test_only_a_gateway_may_resolve_keys_and_no_node_may_ask_anything(suite: Suite) -> None:
    target = f"127.0.0.1:{suite.ports[0]}"
    for caller, allowed in (("gateway", True), ("operator", False), ("scheduler", False)):
        channels = Channels(suite.ca.service(caller))
        stub = rpc.IdentityServiceStub(channels.service("identity", target))
        status, _ = await refusal(stub.ResolveApiKey(pb.ResolveApiKeyRequest(key_sha256=bytes(32))))
        assert status == (grpc.StatusCode.UNAUTHENTICATED if allowed else grpc.StatusCode.PERMISSION_DENIED), caller
        await channels.close()


async def test_bad_requests_say_what_is_wrong(suite: Suite) -> None:
    stub = suite.stub()
    for call, status in (
        (stub.CreateOrg(pb.CreateOrgRequest(name="")), grpc.StatusCode.INVALID_ARGUMENT),
        (stub.CreateOrg(pb.CreateOrgRequest(name="a", request_id="x")), grpc.StatusCode.INVALID_ARGUMENT),
        (stub.GetOrg(pb.GetOrgRequest(id="x")), grpc.StatusCode.NOT_FOUND),
        (stub.ListOrgs(pb.ListOrgsRequest(page_size=1001)), grpc.StatusCode.INVALID_ARGUMENT),
        (stub.ListOrgs(pb.ListOrgsRequest(page_token="!")), grpc.StatusCode.INVALID_ARGUMENT),
        (stub.ResolveApiKey(pb.ResolveApiKeyRequest(key_sha256=b"short")), grpc.StatusCode.UNAUTHENTICATED),
    ):
        assert (await refusal(call))[0] == status
    key, _ = await suite.make_key()
    bad = pb.CreateApiKeyRequest(environment_id=key.environment_id)
    bad.expire_time.seconds = 2**60
    assert (await refusal(stub.CreateApiKey(bad)))[0] == grpc.StatusCode.INVALID_ARGUMENT
    odd = pb.UpdateApiKeyRequest(id=key.id, status=pb.STATUS_REVOKED)
    assert (await refusal(stub.UpdateApiKey(odd)))[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_lists_are_walked_to_their_end(suite: Suite) -> None:
    stub = suite.stub()
    org = (await stub.CreateOrg(pb.CreateOrgRequest(name="Pages"))).org
    made = [
        (await stub.CreateEnvironment(pb.CreateEnvironmentRequest(org_id=org.id, name=str(number)))).environment.id
        for number in range(5)
    ]
    found, token = [], ""
    for _ in range(3):
        page = await stub.ListEnvironments(pb.ListEnvironmentsRequest(org_id=org.id, page_size=2, page_token=token))
        found += [environment.id for environment in page.environments]
        token = page.next_page_token
    assert (found, token) == (made, "")


# The admin API over it


async def test_an_operator_makes_suspends_rotates_and_revokes_through_the_admin_api(suite: Suite) -> None:
    neighbours = Neighbours()
    deps = replace(neighbours.deps, identity=suite.stub)
    async with AdminClient(TestServer(neighbours.app(deps)), headers={"X-Admin-Token": TOKEN}) as admin:

        async def ask(method: str, path: str, status: int, body: Any = None, **headers: str) -> Any:
            async with admin.request(method, path, json=body, headers=headers) as answer:
                assert answer.status == status, await answer.text()
                return await answer.json()

        # A retried create makes one organisation.
        retry = {"Idempotency-Key": "one"}
        org = await ask("POST", "/admin/orgs", 201, {"name": "Acme"}, **retry)
        assert (await ask("POST", "/admin/orgs", 201, {"name": "Acme"}, **retry)) == org
        error = (await ask("POST", "/admin/orgs", 400, {"name": "Other"}, **retry))["error"]
        assert error["param"] == "request_id"

        environments = f"/admin/orgs/{org['id']}/environments"
        environment = await ask("POST", environments, 201, {"name": "production", "allowed_models": ["m"]})
        error = (await ask("POST", environments, 409, {"name": "production"}))["error"]
        assert error["code"] == "already_exists"
        assert (await ask("GET", environments, 200)) == {"data": [environment], "next_page_token": None}

        created = await ask("POST", f"/admin/environments/{environment['id']}/keys", 201, {"name": "ci"})
        digest = hashlib.sha256(created["key"].encode()).digest()
        principal = await suite.resolve(digest)
        assert (principal.org_id, principal.api_key_id) == (org["id"], created["id"])
        assert list(principal.allowed_models) == ["m"]

        await ask("PATCH", f"/admin/orgs/{org['id']}", 200, {"status": "suspended"})
        assert (await refusal(suite.resolve(digest)))[1] == "TENANT_SUSPENDED"
        await ask("PATCH", f"/admin/orgs/{org['id']}", 200, {"status": "active"})

        rotated = await ask("POST", f"/admin/keys/{created['id']}/rotate", 201, {"overlap_s": 60})
        assert rotated["old_key"]["expire_time"] is not None
        await suite.resolve(hashlib.sha256(rotated["key"].encode()).digest())
        assert (await ask("DELETE", f"/admin/keys/{created['id']}", 200))["status"] == "revoked"
        assert (await refusal(suite.resolve(digest)))[1] == "INVALID_API_KEY"
        error = (await ask("POST", f"/admin/keys/{created['id']}/rotate", 409))["error"]
        assert error["code"] == "conflict"
        assert (await ask("GET", "/admin/keys/nonsense", 404))["error"]["code"] == "not_found"
        shown = await ask("GET", f"/admin/keys/{created['id']}", 200)
        assert created["key"] not in str(shown)
