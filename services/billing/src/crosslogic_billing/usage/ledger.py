"""The usage ledger, over gRPC."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import grpc.aio

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as rpc
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_billing.usage.domain import Page, UsageRow
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.tls import Channels

_CHARGED = frozenset({common_pb.OUTCOME_SUCCEEDED, common_pb.OUTCOME_CLIENT_DISCONNECTED})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AccountantLedger:
    """Implements ports.Ledger."""

    def __init__(self, *, channels: Channels, target: str, timeout_s: float = 30.0) -> None:
        """`target` is host:port of the accountant."""
        self._channels = channels
        self._target = target
        self._timeout_s = timeout_s

    async def read(self, after_sequence: int, limit: int) -> Page:
        """See ports.Ledger. Raises UNAVAILABLE, TIMEOUT."""
        answer = await self._read(after_sequence, limit, settled=True)
        return Page(tuple(usage_row(entry) for entry in answer.entries), answer.last_sequence)

    async def entries(self, after_sequence: int, limit: int) -> Sequence[pb.LedgerEntry]:
        """The rows as they are. Raises UNAVAILABLE, TIMEOUT."""
        return (await self._read(after_sequence, limit)).entries

    async def _read(self, after_sequence: int, limit: int, *, settled: bool = False) -> pb.ReadRecordsResponse:
        stub = rpc.AccountantServiceStub(self._channels.service("accountant", self._target))
        try:
            return await stub.ReadRecords(
                pb.ReadRecordsRequest(after_sequence=after_sequence, page_size=limit, settled=settled),
                timeout=self._timeout_s,
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


def usage_row(entry: pb.LedgerEntry) -> UsageRow:
    """A row in billing's words."""
    record = entry.record
    context, usage = record.context, record.usage
    prompt_price = context.prompt_price_picodollars
    cached = context.HasField("cached_prompt_price_picodollars")
    return UsageRow(
        sequence=entry.sequence,
        request_id=context.request_id,
        org_id=context.org_id,
        model=context.model,
        price_version=context.price_version,
        start_time=_EPOCH + timedelta(microseconds=context.start_time_unix_us),
        charged=record.outcome in _CHARGED,
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        completion_tokens=usage.completion_tokens,
        prompt_price=prompt_price,
        cached_prompt_price=context.cached_prompt_price_picodollars if cached else prompt_price,
        completion_price=context.completion_price_picodollars,
        cost_picodollars=int(entry.cost_picodollars or "0"),
        sign=entry.requests,
    )
