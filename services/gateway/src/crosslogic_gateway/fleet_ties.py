"""What ties a worker to the fleet: relays to its nodes, the tunnel that it offers, and its word to the registry."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.grpc_server import GrpcServer
from crosslogic_common.h2 import H2Stream, H2Target
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import Channels, TlsFiles, node_dns_name
from crosslogic_gateway.domain import Route
from crosslogic_gateway.picker import Picker
from crosslogic_gateway.registry_link import RegistryLink
from crosslogic_gateway.relay import NodeLink, RelayPool, RelayStream, Timeouts
from crosslogic_gateway.settings import GatewaySettings
from crosslogic_gateway.tunnels import RULES, SERVICE, Tunnels, add_tunnel_service

RELAY = "/crosslogic.node_agent.v1.NodeAgentService/Relay"


@contextlib.asynccontextmanager
async def running_relays(
    settings: GatewaySettings,
    index: int,
    *,
    timeouts: Timeouts,
    picker: Picker,
    channels: Channels,
    link_type: type[NodeLink] = NodeLink,
) -> AsyncIterator[RelayPool]:
    """The relays, for as long as the block lasts. `index` numbers the worker: it moves the tunnel's port."""
    tunnels = Tunnels()
    relays = RelayPool(open_relay=_open_relay(settings.tls, tunnels), timeouts=timeouts, link_type=link_type)
    offered = settings.tunnel_listen and moved(settings.tunnel_advertise or settings.tunnel_listen, index)
    link = RegistryLink(channels=channels, target=settings.registry_target, tunnel_address=offered, heard=relays.heard)
    picker.reports.also = link.note
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(relays.running())
        if settings.tunnel_listen:
            stopping = asyncio.Event()
            server = GrpcServer(
                listen=moved(settings.tunnel_listen, index),
                tls=settings.tls,
                rules=RULES,
                metrics=Metrics(),
                stopping=stopping,
                shutdown_grace_s=2.0,
            )
            server.add(agent_pb, SERVICE, add_tunnel_service(tunnels, stopping))
            await stack.enter_async_context(server.serving())
        await stack.enter_async_context(link.running())
        yield relays


def _open_relay(tls: TlsFiles, tunnels: Tunnels) -> Callable[[Route], RelayStream]:
    def open_relay(route: Route) -> RelayStream:
        if not route.address:
            return tunnels.stream(route.node_id)
        return H2Stream(
            target=H2Target(route.address, node_dns_name(route.node_id), RELAY),
            tls=tls,
            deserialize=agent_pb.RelayResponse.FromString,
        )

    return open_relay


def moved(address: str, index: int) -> str:
    """The address of the worker with this number."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + index}"
