"""Protobuf in and out, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic.node_agent.v1 import node_agent_pb2_grpc as rpc
from crosslogic_common.errors import CodedError, ErrorCode, from_call_error
from crosslogic_node_agent.relay import Relay
from crosslogic_node_agent.relay_session import RelaySession
from crosslogic_node_agent.whole_call import infer

Context = grpc.aio.ServicerContext[Any, Any]


class NodeAgentServicer(rpc.NodeAgentServiceServicer):
    """NodeAgentService."""

    def __init__(self, *, relay: Relay, stopping: asyncio.Event) -> None:
        self._relay = relay
        self._stopping = stopping

    async def Relay(  # type: ignore[override]  # it writes by itself rather than yield
        self, request_iterator: AsyncIterator[pb.RelayRequest], context: Context
    ) -> None:
        await RelaySession(self._relay).run(request_iterator, context.write, self._stopping)

    async def Infer(
        self,
        request: pb.InferRequest,
        context: Context,  # gRPC's
    ) -> pb.InferResponse:
        if request.open.stream:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`open.stream` must be false.", param="open.stream")
        answer = await infer(self._relay, request.open)
        if answer.end.HasField("error") and not answer.HasField("head"):
            raise from_call_error(answer.end.error)
        return answer
