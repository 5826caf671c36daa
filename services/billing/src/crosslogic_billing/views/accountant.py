"""What the accountant knows of usage, over gRPC."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc.aio

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as rpc
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_billing.views.domain import HourOfUse
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.tls import Channels

_PAGE_ROWS = 10_000
_MAX_PAGES = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OUTCOMES = {
    common_pb.OUTCOME_SUCCEEDED: "succeeded",
    common_pb.OUTCOME_CLIENT_DISCONNECTED: "client_disconnected",
    common_pb.OUTCOME_FAILED: "failed",
    common_pb.OUTCOME_TIMED_OUT: "timed_out",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """One request's record as it stands."""

    request_id: str
    org_id: str
    model: str
    region: str
    start_time: datetime
    outcome: str
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    prompt_price: int
    cached_prompt_price: int
    completion_price: int
    price_version: str
    cost_picodollars: int
    from_witness: bool
    corrections: int


class AccountantUsage:
    """Usage queries."""

    def __init__(self, *, channels: Channels, target: str, timeout_s: float = 30.0) -> None:
        """`target` is host:port of the accountant."""
        self._channels = channels
        self._target = target
        self._timeout_s = timeout_s

    async def hours(self, since: datetime, until: datetime) -> list[HourOfUse]:
        """Usage by model, region and hour. Raises UNAVAILABLE, TIMEOUT."""
        hours: list[HourOfUse] = []
        token = ""
        for _ in range(_MAX_PAGES):
            request = pb.QueryUsageRequest(
                filter=pb.UsageFilter(from_time=timestamp(since), to_time=timestamp(until)),
                group_by=[pb.GROUP_BY_MODEL, pb.GROUP_BY_REGION, pb.GROUP_BY_HOUR],
                page_size=_PAGE_ROWS,
                page_token=token,
            )
            try:
                page = await self._stub().QueryUsage(request, timeout=self._timeout_s)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None
            hours += [
                HourOfUse(
                    row.model,
                    row.region,
                    row.time.ToDatetime(UTC),
                    row.prompt_tokens + row.completion_tokens,
                    int(row.cost_picodollars or "0"),
                )
                for row in page.rows
            ]
            token = page.next_page_token
            if not token:
                return hours
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "That is too much to add up at once: ask for a shorter time.")

    async def request(self, request_id: str) -> StoredRequest:
        """One request's record. Raises NOT_FOUND, UNAVAILABLE."""
        try:
            page = await self._stub().ListUsageRecords(
                pb.ListUsageRecordsRequest(request_id=request_id, page_size=1), timeout=self._timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        if not page.records:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no record of that request.")
        stored = page.records[0]
        context, usage = stored.record.context, stored.record.usage
        cached = context.HasField("cached_prompt_price_picodollars")
        return StoredRequest(
            request_id=context.request_id,
            org_id=context.org_id,
            model=context.model,
            region=context.region,
            start_time=_EPOCH + timedelta(microseconds=context.start_time_unix_us),
            outcome=_OUTCOMES.get(stored.record.outcome, "unknown"),
            prompt_tokens=usage.prompt_tokens,
            cached_prompt_tokens=usage.cached_prompt_tokens,
            completion_tokens=usage.completion_tokens,
            prompt_price=context.prompt_price_picodollars,
            cached_prompt_price=context.cached_prompt_price_picodollars if cached else context.prompt_price_picodollars,
            completion_price=context.completion_price_picodollars,
            price_version=context.price_version,
            cost_picodollars=int(stored.cost_picodollars or "0"),
            from_witness=stored.from_witness,
            corrections=stored.revision // 2,
        )

    def _stub(self) -> "rpc.AccountantServiceAsyncStub":
        return rpc.AccountantServiceStub(self._channels.service("accountant", self._target))
