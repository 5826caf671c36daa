"""Protobuf to domain and back."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc.aio

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic.scheduler.v1 import scheduler_pb2_grpc as rpc
from crosslogic_common.batched import serve_batches
from crosslogic_common.errors import CodedError, ErrorCode, to_call_error
from crosslogic_scheduler.fleet import FleetView
from crosslogic_scheduler.policy import NodeState

MAX_EXCLUDED = 16
Context = grpc.aio.ServicerContext


class SchedulerServicer(rpc.SchedulerServiceServicer):
    """SchedulerService."""

    def __init__(self, *, view: FleetView, stopping: asyncio.Event) -> None:
        self._view = view
        self._stopping = stopping

    async def Pick(self, request: pb.PickRequest, context: Context) -> pb.PickResponse:
        return _response(self._pick(request))

    async def PickStream(self, request_iterator: AsyncIterator[pb.PickStreamRequest], context: Context) -> None:
        await serve_batches(
            request_iterator,
            context.write,
            calls=lambda message: [(call.id, call.request) for call in message.calls],
            handle=self._pick_all,
            encode=_encode,
            stopping=self._stopping,
        )

    def _pick_all(self, requests: Sequence[pb.PickRequest]) -> Sequence[NodeState | CodedError]:
        answers: list[NodeState | CodedError] = []
        for request in requests:
            try:
                answers.append(self._pick(request))
            except CodedError as error:
                answers.append(error)
        return answers

    def _pick(self, request: pb.PickRequest) -> NodeState:
        if not request.model:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`model` must not be empty.", param="model")
        excluded = request.excluded_node_ids
        if len(excluded) > MAX_EXCLUDED:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"at most {MAX_EXCLUDED} nodes can be excluded")
        return self._view.pick((request.model, request.org_id, request.region), excluded)


def _response(node: NodeState) -> pb.PickResponse:
    return pb.PickResponse(node_id=node.id, address=node.address, region=node.region)


def _encode(answers: Sequence[tuple[int, NodeState | CodedError]]) -> pb.PickStreamResponse:
    message = pb.PickStreamResponse()
    add = message.results.add
    for call_id, answer in answers:
        if isinstance(answer, CodedError):
            add(id=call_id, error=to_call_error(answer))
        else:
            response = add(id=call_id).response
            response.node_id = answer.id
            response.address = answer.address
            response.region = answer.region
    return message
