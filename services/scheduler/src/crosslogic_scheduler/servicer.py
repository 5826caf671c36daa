"""Protobuf to domain and back."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio
from opentelemetry import trace

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic.scheduler.v1 import scheduler_pb2_grpc as rpc
from crosslogic_common.batched import serve_batches
from crosslogic_common.errors import CodedError, ErrorCode, to_call_error
from crosslogic_common.outliers import Seen
from crosslogic_scheduler.domain import Picked
from crosslogic_scheduler.fleet import FleetView
from crosslogic_scheduler.lanes.lanes import Lanes
from crosslogic_scheduler.lanes.stream import serve_lanes
from crosslogic_scheduler.metrics import SchedulerMetrics
from crosslogic_scheduler.pick_spans import note_picks

MAX_EXCLUDED = 16
MAX_CALLS = 1_024
MAX_PREFIX_HASHES = 64
MAX_REGIONS = 64
Context = grpc.aio.ServicerContext[Any, Any]


class SchedulerServicer(rpc.SchedulerServiceServicer):
    """SchedulerService."""

    def __init__(
        self,
        *,
        view: FleetView,
        lanes: Lanes,
        metrics: SchedulerMetrics,
        stopping: asyncio.Event,
        tracer: trace.Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._view = view
        self._lanes = lanes
        self._metrics = metrics
        self._stopping = stopping

    async def Pick(self, request: pb.PickRequest, context: Context) -> pb.PickResponse:
        (answer,) = self._pick_all((request,))
        if isinstance(answer, CodedError):
            raise answer
        node, region_failover = answer
        return pb.PickResponse(
            node_id=node.id,
            address=node.address,
            region=node.region,
            region_failover=region_failover,
            node_org_id=node.org_id,
            model_version=node.version,
        )

    async def PickStream(  # type: ignore[override]  # it writes by itself and yields nothing
        self, request_iterator: AsyncIterator[pb.PickStreamRequest], context: Context
    ) -> None:
        await serve_batches(
            request_iterator,
            context.write,
            calls=self._calls,
            handle=self._pick_all,
            encode=_encode,
            stopping=self._stopping,
        )

    async def LaneStream(  # type: ignore[override]  # it writes by itself and yields nothing
        self, request_iterator: AsyncIterator[pb.LaneStreamRequest], context: Context
    ) -> None:
        await serve_lanes(request_iterator, context.write, lanes=self._lanes, stopping=self._stopping)

    def _calls(self, message: pb.PickStreamRequest) -> Sequence[tuple[int, pb.PickRequest]]:
        if message.outcomes:
            for told in message.outcomes[:MAX_CALLS]:
                seen = Seen(told.succeeded, told.failed, told.failed_in_a_row, told.first_byte_us_total)
                self._view.report(told.node_id, seen)
        return [(call.id, call.request) for call in message.calls]

    def _pick_all(self, requests: Sequence[pb.PickRequest]) -> Sequence[Picked | CodedError]:
        if len(requests) > MAX_CALLS:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"At most {MAX_CALLS} calls a message.")
        began = time.perf_counter()
        answers: list[Picked | CodedError] = []
        refused = 0
        for request in requests:
            try:
                answers.append(self._pick(request))
            except CodedError as error:
                answers.append(error)
                refused += 1
        self._metrics.picked.inc(len(answers) - refused)
        if refused:
            self._metrics.refused.inc(refused)
        elapsed_s = time.perf_counter() - began
        self._metrics.decided(len(answers), elapsed_s)
        if self._tracer is not None:
            note_picks(self._tracer, requests, answers, elapsed_s)
        return answers

    def _pick(self, request: pb.PickRequest) -> Picked:
        model = request.model
        if not model:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`model` must not be empty.", param="model")
        if len(request.excluded_node_ids) > MAX_EXCLUDED:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"At most {MAX_EXCLUDED} nodes can be excluded.")
        if len(request.allowed_regions) > MAX_REGIONS:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"At most {MAX_REGIONS} regions can be allowed.")
        if len(request.prefix_hashes) > MAX_PREFIX_HASHES:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"At most {MAX_PREFIX_HASHES} hashes of the prompt.")
        return self._view.pick(request, request.model_version if request.HasField("model_version") else None)


def _encode(answers: Sequence[tuple[int, Picked | CodedError]]) -> pb.PickStreamResponse:
    message = pb.PickStreamResponse()
    add = message.results.add
    for call_id, answer in answers:
        if isinstance(answer, CodedError):
            add(id=call_id, error=to_call_error(answer))
        else:
            # Three fields set one by one cost less than half of copying a prepared message (measured).
            response = add(id=call_id).response
            node, region_failover = answer
            response.node_id = node.id
            response.address = node.address
            response.region = node.region
            if node.org_id:
                response.node_org_id = node.org_id
            if node.version:
                response.model_version = node.version
            if region_failover:
                response.region_failover = True
    return message
