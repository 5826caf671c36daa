"""Connections to an endpoint: the name looked up, its addresses checked, a checked one connected to, TLS verified."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from crosslogic_common.public_addresses import AddressRules
from crosslogic_node_agent.engine_connection import EngineConnection
from crosslogic_node_agent.external.terms import EndpointUrl

IDLE_S = 20.0
"""What common servers and balancers close later than."""
DIAL_S = 10.0
"""Looking the name up, connecting and the TLS handshake together."""
ONE_ADDRESS_S = 4.0
"""Until the next address is tried."""
LOOKED_UP_S = 5.0
"""For so long an answer of the name service is used again."""
MAX_ADDRESSES = 8

LookUp = Callable[[str, int], Awaitable[Sequence[str]]]
"""The numeric addresses of a host. Raises OSError."""


class RefusedAddressError(OSError):
    """The endpoint's name leads only to where this relay must not connect."""


async def look_up(host: str, port: int) -> list[str]:
    """Asks the system's resolver. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def client_tls(ca_file: Path | None) -> ssl.SSLContext:
    """Verifies certificates and names, by the system's authorities or those in `ca_file`. Raises OSError."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class ExternalDialer:
    """Connects to one endpoint."""

    def __init__(
        self, url: EndpointUrl, *, rules: AddressRules, tls: ssl.SSLContext | None, look_up: LookUp = look_up
    ) -> None:
        """`tls` None: the endpoint is spoken to in plain HTTP, which `rules` must name its network for."""
        self.idle_s = IDLE_S
        self.timeout_s = DIAL_S
        self._url = url
        self._rules = rules
        self._tls = tls
        self._look_up = look_up
        self._looking: asyncio.Task[Sequence[str] | OSError] | None = None
        self._looked_at = 0.0

    async def dial(self, make: Callable[[], EngineConnection]) -> EngineConnection:
        """A connection to the first address that takes one. Raises OSError or TimeoutError."""
        failure: Exception = RefusedAddressError("the endpoint's name leads to no address that may be connected to")
        for address in await self._addresses():
            try:
                async with asyncio.timeout(ONE_ADDRESS_S):
                    return await self._connect(make, address)
            except (OSError, TimeoutError) as error:
                failure = error
        raise failure

    def close(self) -> None:
        """Waits for the name service no longer."""
        if self._looking is not None:
            self._looking.cancel()

    async def _connect(self, make: Callable[[], EngineConnection], address: str) -> EngineConnection:
        # The address itself, not its name: a name service cannot answer the check one way and the connection another.
        _, connection = await asyncio.get_running_loop().create_connection(
            make,
            address,
            self._url.port,
            ssl=self._tls,
            server_hostname=None if self._tls is None else self._url.host,
        )
        return connection

    async def _addresses(self) -> list[str]:
        allowed = self._rules.names if self._tls is None else self._rules.allow
        found = dict.fromkeys(await self._looked_up())
        return [address for address in found if allowed(address)][:MAX_ADDRESSES]

    async def _looked_up(self) -> Sequence[str]:
        """One question at a time, however many connections wait for it: a name service that hangs holds one thread."""
        now = asyncio.get_running_loop().time()
        if self._looking is None or (self._looking.done() and now - self._looked_at > LOOKED_UP_S):
            self._looked_at = now
            self._looking = asyncio.create_task(self._ask(), name="look the endpoint up")
        found = await asyncio.shield(self._looking)
        if isinstance(found, OSError):
            raise found
        return found

    async def _ask(self) -> Sequence[str] | OSError:
        try:
            return await self._look_up(self._url.host, self._url.port)
        except OSError as error:
            return error
