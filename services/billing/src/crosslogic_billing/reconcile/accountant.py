"""What the accountant says of a period, over gRPC."""

from datetime import datetime

import grpc.aio

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as rpc
from crosslogic_billing.reconcile.domain import LedgerTotals
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.tls import Channels


class AccountantTotals:
    """Implements service.Totals."""

    def __init__(self, *, channels: Channels, target: str, timeout_s: float = 60.0) -> None:
        """`target` is host:port of the accountant."""
        self._channels = channels
        self._target = target
        self._timeout_s = timeout_s

    async def compared(self, since: datetime, until: datetime) -> LedgerTotals:
        """See service.Totals."""
        request = pb.CompareUsageRequest(from_time=timestamp(since), to_time=timestamp(until))
        try:
            found = await self._stub().CompareUsage(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        records, rollups = found.records, found.rollups
        return LedgerTotals(
            requests=records.requests,
            tokens=records.prompt_tokens + records.completion_tokens,
            cost=int(records.cost_picodollars or "0"),
            rollup_requests=rollups.requests,
            rollup_tokens=rollups.prompt_tokens + rollups.completion_tokens,
            rollup_cost=int(rollups.cost_picodollars or "0"),
            from_witnesses=found.settled_from_witnesses.requests,
            witness_differences=found.witness_differences_total,
            rollup_differences=found.rollup_differences_total,
            open_witnesses=found.open_witnesses,
            corrections=found.corrections,
            last_sequence=found.last_sequence,
            rolled_up_sequence=found.rolled_up_sequence,
        )

    async def rebuild(self, since: datetime, until: datetime) -> int:
        """See service.Totals."""
        request = pb.RebuildRollupsRequest(from_time=timestamp(since), to_time=timestamp(until))
        try:
            return (await self._stub().RebuildRollups(request, timeout=self._timeout_s)).repaired
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    def _stub(self) -> "rpc.AccountantServiceAsyncStub":
        return rpc.AccountantServiceStub(self._channels.service("accountant", self._target))
