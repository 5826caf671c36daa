"""A registry whose RPCs do what a test tells them: a real server to test what is around every RPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.grpc_server import GrpcServer, method_names
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import TlsFiles

SERVICE = "crosslogic.registry.v1.RegistryService"
JOIN_SERVICE = "crosslogic.registry.v1.NodeJoinService"
EVERYBODY = frozenset({"certificate"})


def everybody_may() -> dict[str, frozenset[str]]:
    """A rule for each RPC that lets every certificate of ours in."""
    return {f"/{SERVICE}/{method}": EVERYBODY for method in method_names(pb, SERVICE)}


class ToldServicer(rpc.RegistryServiceServicer):
    """ListModels, WatchNodes and HeartbeatStream do what `list_models`, `watch_nodes` and `heartbeat` are set to."""

    def __init__(self) -> None:
        self.list_models: Callable[[Any], Awaitable[pb.ListModelsResponse]] = self._no_models
        self.watch_nodes: Callable[[Any], AsyncIterator[pb.WatchNodesResponse]] = self._no_nodes
        self.heartbeat: Callable[[Any, Any], Awaitable[None]] = self._no_heartbeat

    async def ListModels(self, request: Any, context: Any) -> pb.ListModelsResponse:
        return await self.list_models(context)

    async def WatchNodes(self, request: Any, context: Any) -> AsyncIterator[pb.WatchNodesResponse]:
        async with contextlib.aclosing(self.watch_nodes(context)) as answers:  # type: ignore[type-var]
            async for answer in answers:
                yield answer

    async def HeartbeatStream(  # type: ignore[override]  # it writes to the context
        self, request_iterator: Any, context: Any
    ) -> None:
        await self.heartbeat(request_iterator, context)

    async def _no_models(self, _context: Any) -> pb.ListModelsResponse:
        return pb.ListModelsResponse()

    async def _no_nodes(self, _context: Any) -> AsyncIterator[pb.WatchNodesResponse]:
        return
        yield

    async def _no_heartbeat(self, _requests: Any, _context: Any) -> None:
        return


class ToldJoinServicer(rpc.NodeJoinServiceServicer):
    """Lets everybody join."""

    async def JoinNode(self, request: Any, context: Any) -> pb.JoinNodeResponse:
        return pb.JoinNodeResponse()


class ToldRegistry:
    """The servicer, the metrics and the stopping event of one server, and the server."""

    def __init__(
        self,
        tls: TlsFiles,
        *,
        rules: Mapping[str, frozenset[str]] | None = None,
        grace_s: float = 2.0,
        listen: str = "127.0.0.1:0",
    ) -> None:
        self.metrics = Metrics()
        self.stopping = asyncio.Event()
        self.servicer = ToldServicer()  # type: ignore[abstract]  # the other RPCs answer UNIMPLEMENTED
        self.server = GrpcServer(
            listen=listen,
            tls=tls,
            rules=everybody_may() if rules is None else rules,
            metrics=self.metrics,
            stopping=self.stopping,
            shutdown_grace_s=grace_s,
        )
        self.server.add(pb, SERVICE, lambda server: rpc.add_RegistryServiceServicer_to_server(self.servicer, server))

    @property
    def target(self) -> str:
        """Where it listens, once served."""
        return f"127.0.0.1:{self.server.port}"
