"""Protobuf to domain and back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as rpc
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_accountant.ledger_rows import time_us
from crosslogic_accountant.ports import Stored
from crosslogic_accountant.record_reader import read_id
from crosslogic_accountant.service import AccountantService
from crosslogic_accountant.usage_queries import MAX_GROUPS, Filter, Group, ListedRecord, Sums, UsageQueries
from crosslogic_common.batched import serve_batches
from crosslogic_common.errors import CodedError, ErrorCode, to_call_error
from crosslogic_common.paging import page_limit

MAX_ITEMS = 1_024
UNARY_WAIT_S = 10.0
Context = grpc.aio.ServicerContext[Any, Any]

_GROUPS = {
    pb.GROUP_BY_ORG: Group.ORG,
    pb.GROUP_BY_ENVIRONMENT: Group.ENVIRONMENT,
    pb.GROUP_BY_API_KEY: Group.API_KEY,
    pb.GROUP_BY_MODEL: Group.MODEL,
    pb.GROUP_BY_REGION: Group.REGION,
    pb.GROUP_BY_HOUR: Group.HOUR,
    pb.GROUP_BY_DAY: Group.DAY,
}


class AccountantServicer(rpc.AccountantServiceServicer):
    """AccountantService."""

    def __init__(self, *, service: AccountantService, queries: UsageQueries, stopping: asyncio.Event) -> None:
        self._service = service
        self._queries = queries
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
        groups = _read_groups(request.group_by)
        limit = page_limit(request.page_size, default=1_000, largest=10_000)
        rows, token = await self._queries.sums(
            _read_filter(request.filter), groups, limit=limit, token=request.page_token
        )
        return pb.QueryUsageResponse(rows=[_usage_row(row, groups) for row in rows], next_page_token=token)

    async def ListUsageRecords(
        self, request: pb.ListUsageRecordsRequest, context: Context
    ) -> pb.ListUsageRecordsResponse:
        records, token = await self._queries.records(
            _read_filter(request.filter, request.request_id),
            limit=page_limit(request.page_size),
            token=request.page_token,
        )
        return pb.ListUsageRecordsResponse(
            records=[_stored_record(record) for record in records], next_page_token=token
        )


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


def _read_groups(values: Sequence[int]) -> list[Group]:
    groups = [_GROUPS.get(value) for value in values]  # type: ignore[call-overload]  # the enum's values are plain numbers
    known = [group for group in groups if group is not None]
    if len(known) != len(groups) or len(set(known)) != len(known) or len(known) > MAX_GROUPS:
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT,
            f"`group_by` takes at most {MAX_GROUPS} different columns.",
            param="group_by",
        )
    return known


def _read_filter(message: pb.UsageFilter, request_id: str = "") -> Filter:
    for name in ("model", "region"):
        if "\0" in getattr(message, name):
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` holds a zero byte.", param=name)
    return Filter(
        org_id=_read_uuid(message.org_id, "org_id"),
        environment_id=_read_uuid(message.environment_id, "environment_id"),
        api_key_id=_read_uuid(message.api_key_id, "api_key_id"),
        model=message.model or None,
        region=message.region or None,
        since=_read_time(message.from_time, "from_time") if message.HasField("from_time") else None,
        until=_read_time(message.to_time, "to_time") if message.HasField("to_time") else None,
        request_id=_read_uuid(request_id, "request_id"),
    )


def _read_uuid(text: str, name: str) -> UUID | None:
    return UUID(bytes=read_id(text, name)) if text else None


def _read_time(value: Timestamp, name: str) -> datetime:
    try:
        return value.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` is not a time.", param=name) from None


def _timestamp(value: datetime) -> Timestamp:
    micros = time_us(value)
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def _usage_row(row: Sums, groups: Sequence[Group]) -> pb.UsageRow:
    message = pb.UsageRow(
        requests=row.requests,
        prompt_tokens=row.prompt_tokens,
        cached_prompt_tokens=row.cached_prompt_tokens,
        completion_tokens=row.completion_tokens,
        cost_picodollars=str(row.cost_picodollars),
    )
    for group, key in zip(groups, row.keys, strict=True):
        if isinstance(key, datetime):
            message.time.CopyFrom(_timestamp(key))
        else:
            setattr(message, group, str(key))
    return message


def _stored_record(listed: ListedRecord) -> pb.StoredUsageRecord:
    record = listed.row.record
    terms, counts = record.terms, record.counts
    return pb.StoredUsageRecord(
        record=pb.UsageRecord(
            context=pb.RequestContext(
                request_id=str(UUID(bytes=record.request_id)),
                org_id=str(UUID(bytes=terms.org_id)),
                environment_id=str(UUID(bytes=terms.environment_id)),
                api_key_id=str(UUID(bytes=terms.api_key_id)),
                model=terms.model,
                start_time_unix_us=record.start_time_us,
                prompt_price_picodollars=terms.prompt_price_picodollars,
                completion_price_picodollars=terms.completion_price_picodollars,
                api=terms.api,
                stream=record.stream,
                region=terms.region,
                node_id=terms.node_id,
                max_total_tokens=terms.max_total_tokens,
            ),
            usage=common_pb.TokenUsage(
                prompt_tokens=counts.prompt_tokens,
                cached_prompt_tokens=counts.cached_prompt_tokens,
                completion_tokens=counts.completion_tokens,
                source=counts.source,  # type: ignore[arg-type]  # stored as it came
            ),
            outcome=record.outcome,  # type: ignore[arg-type]  # stored as it came
            latency_us=record.latency_us,
            time_to_first_token_us=record.time_to_first_token_us,
            http_status=record.http_status,
        ),
        cost_picodollars=str(record.cost_picodollars),
        record_time=_timestamp(listed.record_time),
        from_witness=record.from_witness,
    )
