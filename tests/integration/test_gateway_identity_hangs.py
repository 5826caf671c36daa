"""A gateway whose identity hangs, rather than dies, hears of revocations from another all the same."""

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.clock import SystemClock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.tls import Channels
from crosslogic_dev.certificates import DevelopmentCa
from crosslogic_dev.ports import free_port
from crosslogic_gateway.catalogue import Catalogue
from crosslogic_gateway.domain import Principal
from crosslogic_gateway.keys import KeyCache
from crosslogic_gateway.running import Running
from crosslogic_gateway.sources import SILENT_S, IdentityPrincipals, Watches
from tests.integration.test_identity_service import running

KEEPALIVE_S = 15.0
"""When gRPC itself would notice."""


@pytest.fixture(scope="module")
def ca() -> Iterator[DevelopmentCa]:
    with tempfile.TemporaryDirectory() as folder:
        yield DevelopmentCa(Path(folder))


class Balancer:
    """A service's one address, with replicas behind it. Connections that hang stay open, and nothing passes."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.hang()
        for writer in self._writers:
            writer.close()

    def hang(self) -> None:
        """The connections there are hang from now on."""
        for pump in self._pumps:
            pump.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        back, onward = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, onward]
        for source, sink in ((reader, onward), (back, writer)):
            pump = asyncio.create_task(_pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.close()


class Nowhere:
    """A Redis that has nothing."""

    async def resolve(self, key_sha256: bytes) -> Principal:
        raise CodedError(ErrorCode.NOT_FOUND)


async def test_a_revocation_reaches_a_gateway_whose_identity_hangs(
    ca: DevelopmentCa, pg_url: str, redis_url: str
) -> None:
    async with running(ca, pg_url, redis_url) as suite, Balancer(suite.ports[0]) as balancer:
        target = f"127.0.0.1:{balancer.port}"
        channels = Channels(ca.service("gateway"))
        keys = KeyCache(
            shared=Nowhere(), identity=IdentityPrincipals(channels=channels, target=target), clock=SystemClock()
        )
        watches = Watches(
            channels=channels,
            identity_target=target,
            registry_target=f"127.0.0.1:{free_port()}",
            keys=keys,
            catalogue=Catalogue(),
            running=Running(),
        )
        made = await suite.stub(0).CreateOrg(pb.CreateOrgRequest(name="Acme"))
        environment = await suite.stub(0).CreateEnvironment(pb.CreateEnvironmentRequest(org_id=made.org.id, name="e"))
        key = await suite.stub(0).CreateApiKey(pb.CreateApiKeyRequest(environment_id=environment.environment.id))
        async with watches.running():
            async with asyncio.timeout(20):
                while watches.lost["revocations"]:
                    await asyncio.sleep(0.01)
            await keys.resolve(key.secret)
            # Longer than a gateway would wait for a sign of life: an identity that has nothing to say is not left.
            await asyncio.sleep(SILENT_S + 1)
            assert balancer.connections == 1
            balancer.hang()
            hung_at = asyncio.get_running_loop().time()
            await suite.stub(0).RevokeApiKey(pb.RevokeApiKeyRequest(id=key.api_key.id))
            async with asyncio.timeout(KEEPALIVE_S + 20):
                while keys.cached(key.secret) is not None:
                    await asyncio.sleep(0.01)
            assert asyncio.get_running_loop().time() - hung_at < KEEPALIVE_S - 3
            assert balancer.connections > 1
            with pytest.raises(CodedError) as raised:
                await keys.resolve(key.secret)
            assert raised.value.code == ErrorCode.INVALID_API_KEY
        await channels.close()
