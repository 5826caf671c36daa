"""A registry that only tells of a fleet: `python -m benchmarks.picks_registry NODES`, for the scheduler's row.

Each node's heartbeat comes every five seconds, spread evenly, as the real registry passes them on.
"""

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.grpc_server import GrpcServer, method_names, run_service
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import TlsFiles

SERVICE = "crosslogic.registry.v1.RegistryService"
HEARTBEAT_S = 5.0
TICK_S = 0.1
MODELS = tuple(f"model-{number}" for number in range(4))
REGIONS = ("us-east", "eu-west")


def fleet(size: int) -> list[pb.Node]:
    """`size` nodes: each has two of four models, in one of two regions."""
    draw = random.Random(7)
    return [
        pb.Node(
            id=f"0190c5b2-a6f9-7d2c-bf3e-{number:012x}",
            status=pb.NODE_STATUS_ACTIVE,
            reachable=True,
            facts=pb.NodeFacts(
                address=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:7300",
                region=REGIONS[number % 2],
                models=[MODELS[0], MODELS[1 + number % 3]],
                max_tokens_per_sec=draw.choice((2_000.0, 4_000.0, 8_000.0)),
                decode_tokens_per_sec=60.0,
            ),
            load=pb.NodeLoad(current_tokens_per_sec=draw.uniform(0, 1_500)),
        )
        for number in range(size)
    ]


class FleetTeller:
    """WatchNodes and nothing else of the registry's RPCs."""

    def __init__(self, nodes: list[pb.Node], stopping: asyncio.Event) -> None:
        self._nodes = nodes
        self._stopping = stopping

    def register(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        watch = grpc.unary_stream_rpc_method_handler(
            self._watch_nodes,
            request_deserializer=pb.WatchNodesRequest.FromString,
            response_serializer=pb.WatchNodesResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"WatchNodes": watch}),))

    async def _watch_nodes(self, _request: object, _context: object) -> AsyncIterator[pb.WatchNodesResponse]:
        yield pb.WatchNodesResponse(nodes=self._nodes, snapshot_start=True, snapshot_complete=True)
        at = 0
        each_tick = max(1, round(len(self._nodes) * TICK_S / HEARTBEAT_S))
        while not self._stopping.is_set():
            await asyncio.sleep(TICK_S)
            heard = [self._nodes[(at + offset) % len(self._nodes)] for offset in range(each_tick)]
            at += each_tick
            for node in heard:
                node.load.current_tokens_per_sec = random.uniform(0, 1_500)
            yield pb.WatchNodesResponse(nodes=heard)


async def serve(listen: str, tls: TlsFiles, size: int, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    stopping = asyncio.Event()
    rules = {f"/{SERVICE}/{method}": frozenset({"service:*"}) for method in method_names(pb, SERVICE)}
    server = GrpcServer(listen=listen, tls=tls, rules=rules, metrics=Metrics(), stopping=stopping, shutdown_grace_s=0.5)
    server.add(pb, SERVICE, FleetTeller(fleet(size), stopping).register)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(server.serving())
        await stop.wait()


def main() -> None:
    """The process."""
    configure_logging("picks_registry", "WARNING")
    tls = TlsFiles(
        *(Path(os.environ[f"CROSSLOGIC_TLS_{what}_FILE"]) for what in ("CERT", "KEY", "CA")),
    )
    run_service(lambda stop: serve(os.environ["CROSSLOGIC_LISTEN"], tls, int(sys.argv[1]), stop))


if __name__ == "__main__":
    main()
