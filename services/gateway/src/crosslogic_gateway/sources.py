"""Who the gateway asks and who tells it: Redis and identity for keys, identity and registry for changes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import grpc.aio
from google.protobuf.message import DecodeError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from crosslogic.identity.v1 import identity_pb2 as identity_pb
from crosslogic.identity.v1 import identity_pb2_grpc as identity_rpc
from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic.registry.v1 import registry_pb2_grpc as registry_rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_gateway.catalogue import Catalogue
from crosslogic_gateway.domain import Principal
from crosslogic_gateway.keys import KeyCache
from crosslogic_gateway.principals import principal_of
from crosslogic_gateway.running import Running

REDIS_BUDGET_S = 0.05
RESOLVE_TIMEOUT_S = 5.0
SILENT_S = 3.0
"""Identity says every second that it is there."""


class SharedPrincipals:
    """The cache that identity keeps in Redis; its format is in services/identity/README.md."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def resolve(self, key_sha256: bytes) -> Principal:
        """The owner. Raises NOT_FOUND when it is not there, is of an older generation, or Redis is away."""
        try:
            async with asyncio.timeout(REDIS_BUDGET_S):
                found = await self._redis.mget("identity:generation", f"identity:key:{key_sha256.hex()}")
            # The client is opened without decoding; its types allow for text too.
            generation, entry = cast("list[bytes | None]", found)
            if entry is not None:
                stamped, _, serialised = entry.partition(b":")
                if stamped == (generation or b"0"):
                    return principal_of(identity_pb.Principal.FromString(serialised))
        except (RedisError, TimeoutError, OSError, DecodeError) as error:
            raise CodedError(ErrorCode.NOT_FOUND, private=f"shared cache: {error}") from error
        raise CodedError(ErrorCode.NOT_FOUND)


class IdentityPrincipals:
    """Identity itself."""

    def __init__(self, *, channels: Channels, target: str) -> None:
        """`target` is host:port."""
        self._channels = channels
        self._target = target

    async def resolve(self, key_sha256: bytes) -> Principal:
        """The owner. Raises what identity says, UNAVAILABLE or TIMEOUT."""
        stub = identity_rpc.IdentityServiceStub(self._channels.service("identity", self._target))
        try:
            response = await stub.ResolveApiKey(
                identity_pb.ResolveApiKeyRequest(key_sha256=key_sha256), timeout=RESOLVE_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return principal_of(response.principal)


class Watches:
    """Keeps the keys' and the catalogue's copies in step with their owners."""

    def __init__(
        self,
        *,
        channels: Channels,
        identity_target: str,
        registry_target: str,
        keys: KeyCache,
        catalogue: Catalogue,
        running: Running,
    ) -> None:
        """Targets are host:port."""
        self._channels = channels
        self._identity_target = identity_target
        self._registry_target = registry_target
        self._keys = keys
        self._catalogue = catalogue
        self._running = running
        self._log = get_logger(__name__)
        self.lost: dict[str, bool] = {"revocations": True, "catalogue": True}
        """Which watches do not run now."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watches for as long as the block lasts."""
        tasks = [
            asyncio.create_task(self._keep("revocations", self._watch_revocations)),
            asyncio.create_task(self._keep("catalogue", self._watch_catalogue)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, name: str, watch: Callable[[Backoff], Awaitable[None]]) -> None:
        backoff = Backoff(cap_s=2.0)
        while True:
            try:
                await watch(backoff)
            except grpc.aio.AioRpcError as error:
                self._log.warning("watch lost", watch=name, reason=from_rpc_error(error).private)
            self.lost[name] = True
            await asyncio.sleep(backoff.next_s())

    async def _watch_revocations(self, backoff: Backoff) -> None:
        stub = identity_rpc.IdentityServiceStub(self._channels.service("identity", self._identity_target))
        call = stub.WatchRevocations(identity_pb.WatchRevocationsRequest())
        while True:
            try:
                async with asyncio.timeout(SILENT_S):
                    message = await call.read()
            except TimeoutError:
                # It hangs, or the way to it does. Over a new connection another replica may answer.
                self._log.warning("identity is silent", seconds=SILENT_S)
                call.cancel()
                self._channels.renew("identity", self._identity_target)
                return
            if not isinstance(message, identity_pb.WatchRevocationsResponse):
                # The end of the stream.
                return
            backoff.reset()
            self.lost["revocations"] = False
            what = message.WhichOneof("what")
            if what == "alive":
                continue
            if what is None or what == "resync":
                self._keys.forget_all()
                continue
            if what == "plan":
                await self._keys.forget_plan(message.plan)
                continue
            whose = {what: getattr(message, what)}
            self._keys.forget(**whose)
            if message.cut_streams:
                cut = self._running.cut(**whose)
                self._log.info("requests of a suspended tenant were cut", requests=cut, **whose)

    async def _watch_catalogue(self, backoff: Backoff) -> None:
        stub = registry_rpc.RegistryServiceStub(self._channels.service("registry", self._registry_target))
        async for message in stub.WatchModels(registry_pb.WatchModelsRequest()):
            backoff.reset()
            self.lost["catalogue"] = False
            self._catalogue.replace(message.models)
