"""A neighbour's stub for tests of the admin API: unary RPCs that are methods."""

from typing import Any

import grpc.aio
from google.protobuf.message import Message

from crosslogic_common.errors import CodedError, grpc_status, to_metadata


def rpc_error(error: CodedError) -> grpc.aio.AioRpcError:
    """What a client of our servers sees of a coded error."""
    return grpc.aio.AioRpcError(
        grpc_status(error), grpc.aio.Metadata(), grpc.aio.Metadata(*to_metadata(error)), error.public
    )


class FakeStub:
    """Unary RPCs are the methods of the subclass; `fails` makes every one of them fail."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.asked: list[Any] = []
        self.timeouts: list[float | None] = []
        self.metadata: list[Any] = []

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name[0].isupper():
            return found

        async def call(request: Message, /, *, timeout: float | None = None, metadata: Any = None) -> Message:
            self.asked.append(request)
            self.timeouts.append(timeout)
            self.metadata.append(metadata)
            if self.fails is not None:
                raise self.fails
            try:
                answer: Message = found(request)
            except CodedError as error:
                raise rpc_error(error) from None
            return answer

        return call
