"""A stand-in for the accountant: acknowledges every record at once and keeps none.

`python -m benchmarks.stub_accountant`, started by benchmarks.stack. Also for telling the gateway's cost apart from what
the database takes of the other core.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic_common.batched import serve_batches
from crosslogic_common.errors import CodedError
from crosslogic_common.grpc_server import GrpcServer, method_names, run_service
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import TlsFiles

SERVICE = "crosslogic.accountant.v1.AccountantService"


class Acknowledger:
    """RecordStream and nothing else of the accountant's RPCs."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping

    def register(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        record = grpc.stream_stream_rpc_method_handler(
            self._record_stream,
            request_deserializer=pb.RecordStreamRequest.FromString,
            response_serializer=pb.RecordStreamResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"RecordStream": record}),))

    async def _record_stream(
        self, requests: AsyncIterator[pb.RecordStreamRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        await serve_batches(
            requests,
            context.write,
            calls=lambda message: [(call.id, call.record) for call in message.calls],
            handle=_acknowledge,
            encode=_encode,
            stopping=self._stopping,
        )


def _acknowledge(records: Sequence[pb.UsageRecord]) -> Sequence[bool | CodedError]:
    return [True] * len(records)


def _encode(answers: Sequence[tuple[int, bool | CodedError]]) -> pb.RecordStreamResponse:
    return pb.RecordStreamResponse(results=[pb.RecordStreamResult(id=call_id) for call_id, _ in answers])


async def serve(listen: str, tls: TlsFiles, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    stopping = asyncio.Event()
    rules = {f"/{SERVICE}/{method}": frozenset({"service:*"}) for method in method_names(pb, SERVICE)}
    server = GrpcServer(listen=listen, tls=tls, rules=rules, metrics=Metrics(), stopping=stopping, shutdown_grace_s=0.5)
    server.add(pb, SERVICE, Acknowledger(stopping).register)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(server.serving())
        await stop.wait()


def main() -> None:
    """The process."""
    configure_logging("stub_accountant", "WARNING")
    tls = TlsFiles(*(Path(os.environ[f"CROSSLOGIC_TLS_{what}_FILE"]) for what in ("CERT", "KEY", "CA")))
    run_service(lambda stop: serve(os.environ["CROSSLOGIC_LISTEN"], tls, stop))


if __name__ == "__main__":
    main()
