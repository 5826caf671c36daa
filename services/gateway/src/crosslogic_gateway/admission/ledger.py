"""The accountant, as far as admission asks it."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import grpc.aio

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as accountant_rpc
from crosslogic.accountant.v1 import budgets_pb2 as budgets_pb
from crosslogic.accountant.v1 import budgets_pb2_grpc as budgets_rpc
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.tls import Channels
from crosslogic_gateway.admission.hard_budgets import ID_PREFIX
from crosslogic_gateway.admission.ports import Settled, Spent, Used
from crosslogic_gateway.domain import HardBudget

TIMEOUT_S = 2.0
MAX_PAGES = 10
_S = 1_000_000
_HOUR_US = 3600 * _S
SCOPES = {
    "org": budgets_pb.SPEND_SCOPE_ORG,
    "environment": budgets_pb.SPEND_SCOPE_ENVIRONMENT,
    "api_key": budgets_pb.SPEND_SCOPE_API_KEY,
}
PERIODS = {"day": budgets_pb.SPEND_PERIOD_DAY, "month": budgets_pb.SPEND_PERIOD_MONTH}
_HOUR_SLICES = 4


class AccountantLedger:
    """Asks the accountant."""

    def __init__(
        self, *, channels: Channels, target: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """`target` is host:port."""
        self._channels = channels
        self._target = target
        self._now = now

    async def used(self, org_id: str) -> list[Used]:
        """What the organisation used in the last minute, hour and day. Later than it was, never earlier."""
        now_us = round(self._now().timestamp() * _S)
        slice_us = _HOUR_US // _HOUR_SLICES
        minute, *hours, day = await asyncio.gather(
            self._rows(org_id, now_us - 60 * _S, now_us),
            *(
                self._rows(org_id, now_us - (number + 1) * slice_us, now_us - number * slice_us)
                for number in range(_HOUR_SLICES)
            ),
            self._rows(org_id, now_us - 24 * _HOUR_US, now_us, by_hour=True),
        )
        found = [entry for row in minute for entry in _used(row, org_id, "minute", 0)]
        for number, rows in enumerate(hours):
            found += [entry for row in rows for entry in _used(row, org_id, "hour", number * slice_us)]
        for row in day:
            age_us = max(0, now_us - (row.time.seconds * _S + _HOUR_US))
            found += _used(row, org_id, "day", age_us)
        return found

    async def spent(self, org_id: str, budgets: Sequence[HardBudget]) -> list[Spent]:
        """What is spent of each budget, by the accountant's own calendar."""
        stub = budgets_rpc.BudgetServiceStub(self._channels.service("accountant", self._target))
        by_scope = [budget for budget in budgets if not budget.id.startswith(ID_PREFIX)]
        request = budgets_pb.ReadSpendRequest(
            queries=[
                budgets_pb.SpendQuery(
                    scope=SCOPES[budget.scope], id=owner_of(budget, org_id), period=PERIODS[budget.period]
                )
                for budget in by_scope
            ]
        )
        found: dict[str, Spent] = {}
        try:
            if by_scope:
                response = await stub.ReadSpend(request, timeout=TIMEOUT_S)
                for budget, spend in zip(by_scope, response.spends, strict=True):
                    found[budget.id] = _spent(
                        budget, spend.period_start.ToDatetime(tzinfo=UTC), spend.spent_picodollars
                    )
            for budget in budgets:
                if budget.id not in found:
                    its_id = budget.id.removeprefix(ID_PREFIX)
                    one = await stub.GetBudget(budgets_pb.GetBudgetRequest(id=its_id), timeout=TIMEOUT_S)
                    began = one.state.period_start.ToDatetime(tzinfo=UTC)
                    found[budget.id] = _spent(budget, began, one.state.spent_picodollars)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        except ValueError as error:
            raise CodedError(ErrorCode.UNAVAILABLE, private=f"the accountant answered nonsense: {error}") from None
        return [found[budget.id] for budget in budgets]

    async def settled(self, org_id: str, request_id: str) -> Settled | None:
        """The record of a request."""
        stub = accountant_rpc.AccountantServiceStub(self._channels.service("accountant", self._target))
        request = accountant_pb.ListUsageRecordsRequest(
            filter=accountant_pb.UsageFilter(org_id=org_id), request_id=request_id, page_size=1
        )
        try:
            response = await stub.ListUsageRecords(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        if not response.records:
            return None
        stored = response.records[0]
        usage = stored.record.usage
        return Settled(usage.prompt_tokens, usage.completion_tokens, int(stored.cost_picodollars or "0"))

    async def _rows(
        self, org_id: str, from_us: int, to_us: int, *, by_hour: bool = False
    ) -> list[accountant_pb.UsageRow]:
        stub = accountant_rpc.AccountantServiceStub(self._channels.service("accountant", self._target))
        request = accountant_pb.QueryUsageRequest(
            filter=accountant_pb.UsageFilter(org_id=org_id),
            group_by=[
                accountant_pb.GROUP_BY_ENVIRONMENT,
                accountant_pb.GROUP_BY_API_KEY,
                *([accountant_pb.GROUP_BY_HOUR] if by_hour else []),
            ],
            page_size=10_000,
        )
        request.filter.from_time.FromMicroseconds(from_us)
        request.filter.to_time.FromMicroseconds(to_us)
        rows: list[accountant_pb.UsageRow] = []
        for _ in range(MAX_PAGES):
            try:
                response = await stub.QueryUsage(request, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None
            rows.extend(response.rows)
            request.page_token = response.next_page_token
            if not response.next_page_token:
                break
        return rows


def _used(row: accountant_pb.UsageRow, org_id: str, unit: str, age_us: int) -> list[Used]:
    tokens = row.prompt_tokens + row.completion_tokens
    owners = (("key", row.api_key_id), ("env", row.environment_id), ("org", org_id))
    return [
        Used(layer, owner_id, unit, age_us, row.requests, tokens)  # type: ignore[arg-type]  # the literals above
        for layer, owner_id in owners
    ]


def _spent(budget: HardBudget, period_start: datetime, picodollars: str) -> Spent:
    return Spent(period_start.strftime("%Y-%m-%d" if budget.period == "day" else "%Y-%m"), int(picodollars or "0"))


def owner_of(budget: HardBudget, org_id: str) -> str:
    """Whose spending counts: a cap's id is `<scope>:<id of the owner>:<period>`."""
    return org_id if budget.scope == "org" else budget.id.split(":")[1]
