"""Protobuf to domain and back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as rpc
from crosslogic_accountant.correction_store import Corrections
from crosslogic_accountant.ports import Stored
from crosslogic_accountant.record_log_store import BILLING, RecordLog
from crosslogic_accountant.rollups.compare_store import UsageComparer
from crosslogic_accountant.rollups.messages import comparison, read_days, read_period
from crosslogic_accountant.rollups.store import RollupStore
from crosslogic_accountant.service import AccountantService
from crosslogic_accountant.usage_messages import (
    ledger_entry,
    read_correction,
    read_filter,
    read_groups,
    read_uuid,
    stored_record,
    usage_row,
)
from crosslogic_accountant.usage_queries import ListedRecord, UsageQueries
from crosslogic_common.batched import serve_batches
from crosslogic_common.errors import CodedError, ErrorCode, to_call_error
from crosslogic_common.paging import page_limit
from crosslogic_common.tls import peer_identity

MAX_ITEMS = 1_024
MAX_ENTRIES = 5_000
MAX_SEQUENCE = 2**63 - 1
UNARY_WAIT_S = 10.0
Context = grpc.aio.ServicerContext[Any, Any]


class AccountantServicer(rpc.AccountantServiceServicer):
    """AccountantService."""

    def __init__(
        self,
        *,
        service: AccountantService,
        queries: UsageQueries,
        log: RecordLog,
        corrections: Corrections,
        comparer: UsageComparer,
        rollups: RollupStore,
        stopping: asyncio.Event,
    ) -> None:
        self._service = service
        self._queries = queries
        self._log = log
        self._corrections = corrections
        self._comparer = comparer
        self._rollups = rollups
        self._stopping = stopping

    async def RecordUsage(self, request: pb.RecordUsageRequest, context: Context) -> pb.RecordUsageResponse:
        async with _in_time():
            (answer,) = await self._service.record([request.record])
        if isinstance(answer, CodedError):
            raise answer
        return pb.RecordUsageResponse(duplicate=answer.duplicate)

    async def RecordStream(  # type: ignore[override]  # it writes by itself and yields nothing
        self, request_iterator: AsyncIterator[pb.RecordStreamRequest], context: Context
    ) -> None:
        await serve_batches(
            request_iterator,
            context.write,
            calls=lambda message: [(call.id, call.record) for call in message.calls],
            handle=self._record_or_break,
            encode=_encode,
            stopping=self._stopping,
        )

    async def _record_or_break(self, records: Sequence[pb.UsageRecord]) -> Sequence[Stored | CodedError]:
        try:
            return await self._service.record(records)
        except CodedError as error:
            # As the answer of a call it would say that the record is refused for good.
            raise NotDurableError(str(error)) from error

    async def RecordWitnesses(self, request: pb.RecordWitnessesRequest, context: Context) -> pb.RecordWitnessesResponse:
        if not 1 <= len(request.witnesses) <= MAX_ITEMS:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`witnesses` must be 1 to {MAX_ITEMS}.", param="witnesses")
        async with _in_time():
            answers = await self._service.witness(request.witnesses)
        return pb.RecordWitnessesResponse(
            refused_reasons=[answer.public if isinstance(answer, CodedError) else "" for answer in answers]
        )

    async def QueryUsage(self, request: pb.QueryUsageRequest, context: Context) -> pb.QueryUsageResponse:
        groups = read_groups(request.group_by)
        limit = page_limit(request.page_size, default=1_000, largest=10_000)
        rows, token = await self._queries.sums(
            read_filter(request.filter), groups, limit=limit, token=request.page_token
        )
        return pb.QueryUsageResponse(rows=[usage_row(row, groups) for row in rows], next_page_token=token)

    async def ListUsageRecords(
        self, request: pb.ListUsageRecordsRequest, context: Context
    ) -> pb.ListUsageRecordsResponse:
        records, token = await self._queries.records(
            read_filter(request.filter, request.request_id),
            limit=page_limit(request.page_size),
            token=request.page_token,
        )
        return pb.ListUsageRecordsResponse(records=[stored_record(record) for record in records], next_page_token=token)

    async def ReadRecords(self, request: pb.ReadRecordsRequest, context: Context) -> pb.ReadRecordsResponse:
        caller = peer_identity(context)
        billing = caller is not None and caller.kind == "service" and caller.name == BILLING
        if request.after_sequence > MAX_SEQUENCE:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "There is no such sequence.", param="after_sequence")
        entries, last = await self._log.read(
            request.after_sequence,
            limit=page_limit(request.page_size, default=1_000, largest=MAX_ENTRIES),
            reader=BILLING if billing and request.settled else "",
        )
        return pb.ReadRecordsResponse(entries=[ledger_entry(entry) for entry in entries], last_sequence=last)

    async def CorrectRecord(self, request: pb.CorrectRecordRequest, context: Context) -> pb.CorrectRecordResponse:
        made = await self._corrections.correct(read_correction(request))
        listed = ListedRecord(made.row, made.record_time)
        return pb.CorrectRecordResponse(record=stored_record(listed), duplicate=made.duplicate)

    async def CompareUsage(self, request: pb.CompareUsageRequest, context: Context) -> pb.CompareUsageResponse:
        low, high = read_period(request)
        found = await self._comparer.compare(
            low, high, read_uuid(request.org_id, "org_id"), limit=page_limit(request.page_size)
        )
        return comparison(found)

    async def RebuildRollups(self, request: pb.RebuildRollupsRequest, context: Context) -> pb.RebuildRollupsResponse:
        low, high = read_days(request)
        return pb.RebuildRollupsResponse(repaired=await self._rollups.rebuild(low, high))


@contextlib.asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """What is not durable in time may become so later: the caller sends it again, and it is stored once."""
    try:
        async with asyncio.timeout(UNARY_WAIT_S):
            yield
    except TimeoutError as error:
        raise CodedError(ErrorCode.UNAVAILABLE, private="not durable in time", retry_after_s=1.0) from error


class NotDurableError(Exception):
    """Records were neither stored nor refused. The stream breaks, and its gateway sends them again on the next one."""


def _encode(answers: Sequence[tuple[int, Stored | CodedError]]) -> pb.RecordStreamResponse:
    message = pb.RecordStreamResponse()
    add = message.results.add
    for call_id, answer in answers:
        if isinstance(answer, CodedError):
            add(id=call_id, error=to_call_error(answer))
        else:
            add(id=call_id)
    return message
