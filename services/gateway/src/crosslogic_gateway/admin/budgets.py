"""Budgets: what may be spent, what is spent, who is told."""

import uuid
from typing import Any

from msgspec import UNSET

from crosslogic.accountant.v1 import budgets_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin import budget_schemas as schemas
from crosslogic_gateway.admin.budget_stub import BudgetStub
from crosslogic_gateway.admin.conversion import text_or_none, time, whole_number
from crosslogic_gateway.admin.money import usd
from crosslogic_gateway.admin.operation import Call

_SCOPES: dict[schemas.ScopeName, pb.SpendScope.ValueType] = {
    "org": pb.SPEND_SCOPE_ORG,
    "department": pb.SPEND_SCOPE_DEPARTMENT,
    "environment": pb.SPEND_SCOPE_ENVIRONMENT,
    "key": pb.SPEND_SCOPE_API_KEY,
}
_SCOPE_NAMES: dict[int, schemas.ScopeName] = {value: name for name, value in _SCOPES.items()}
_PERIODS: dict[schemas.PeriodName, pb.SpendPeriod.ValueType] = {
    "day": pb.SPEND_PERIOD_DAY,
    "month": pb.SPEND_PERIOD_MONTH,
}
_PERIOD_NAMES: dict[int, schemas.PeriodName] = {value: name for name, value in _PERIODS.items()}


async def create_budget(call: Call[schemas.NewBudget, None]) -> schemas.Budget:
    """POST /admin/budgets."""
    body = call.body
    request = pb.CreateBudgetRequest(
        budget=pb.Budget(
            org_id=body.org_id,
            scope=_SCOPES[body.scope],
            scope_id=body.scope_id,
            environment_ids=body.environment_ids,
            api_key_ids=body.key_ids,
            name=body.name,
            period=_PERIODS[body.period],
            limit_picodollars=body.limit_picodollars,
            hard=body.hard,
            thresholds_percent=body.thresholds_percent,
            owners=body.owners,
        ),
        request_id=call.create_request_id("budget") or str(uuid.uuid4()),
    )
    return _budget((await call.rpc(_stub(call).CreateBudget, request)).state)


async def list_budgets(call: Call[None, schemas.BudgetsQuery]) -> schemas.BudgetList:
    """GET /admin/budgets."""
    request = pb.ListBudgetsRequest(
        org_id=call.query.org_id, page_size=call.query.page_size, page_token=call.query.page_token
    )
    page = await call.rpc(_stub(call).ListBudgets, request)
    return schemas.BudgetList(
        data=[_budget(state) for state in page.states], next_page_token=text_or_none(page.next_page_token)
    )


async def get_budget(call: Call[None, None]) -> schemas.Budget:
    """GET /admin/budgets/{id}."""
    return _budget(await _state(call))


async def update_budget(call: Call[schemas.BudgetPatch, None]) -> schemas.Budget:
    """PATCH /admin/budgets/{id}."""
    body = call.body
    request = pb.UpdateBudgetRequest(
        id=call.path["id"],
        name=None if body.name is UNSET else body.name,
        limit_picodollars=None if body.limit_picodollars is UNSET else body.limit_picodollars,
        hard=None if body.hard is UNSET else body.hard,
        thresholds_percent=[] if body.thresholds_percent is UNSET else body.thresholds_percent,
        owners=[] if body.owners is UNSET else body.owners,
    )
    return _budget((await call.rpc(_stub(call).UpdateBudget, request)).state)


async def delete_budget(call: Call[None, None]) -> schemas.Budget:
    """DELETE /admin/budgets/{id}."""
    state = await _state(call)
    await call.rpc(_stub(call).DeleteBudget, pb.DeleteBudgetRequest(id=call.path["id"]))
    return _budget(state)


async def list_events(call: Call[None, schemas.BudgetEventsQuery]) -> schemas.BudgetEventList:
    """GET /admin/budget-events."""
    request = pb.ListBudgetEventsRequest(
        org_id=call.query.org_id,
        budget_id=call.query.budget_id,
        after_sequence=call.query.after_sequence,
        page_size=call.query.page_size,
    )
    page = await call.rpc(_stub(call).ListBudgetEvents, request)
    return schemas.BudgetEventList(data=[_event(event) for event in page.events])


async def of_body(call: Call[Any, Any]) -> str:
    """The body names the organisation. Raises INVALID_ARGUMENT."""
    try:
        return str(uuid.UUID(call.body.org_id))
    except ValueError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`org_id` must be a UUID.", param="org_id") from None


async def of_budget(call: Call[Any, Any]) -> str:
    """A budget is named in the path."""
    return (await _state(call)).budget.org_id


async def _state(call: Call[Any, Any]) -> pb.BudgetState:
    try:
        request = pb.GetBudgetRequest(id=str(uuid.UUID(call.path["id"])))
    except ValueError:
        raise CodedError(ErrorCode.NOT_FOUND) from None
    return (await call.rpc(_stub(call).GetBudget, request)).state


def _stub(call: Call[Any, Any]) -> BudgetStub:
    if call.deps.budgets is None:
        raise CodedError(ErrorCode.UNAVAILABLE, private="no accountant is configured")
    return call.deps.budgets()


def _budget(state: pb.BudgetState) -> schemas.Budget:
    budget = state.budget
    spent = whole_number(state.spent_picodollars)
    return schemas.Budget(
        id=budget.id,
        org_id=budget.org_id,
        name=budget.name,
        scope=_SCOPE_NAMES[budget.scope],
        scope_id=text_or_none(budget.scope_id),
        environment_ids=list(budget.environment_ids),
        key_ids=list(budget.api_key_ids),
        period=_PERIOD_NAMES[budget.period],
        limit_picodollars=budget.limit_picodollars,
        limit_usd=usd(budget.limit_picodollars),
        hard=budget.hard,
        thresholds_percent=list(budget.thresholds_percent),
        owners=list(budget.owners),
        created_at=time(budget.create_time),
        period_start=time(state.period_start),
        spent_picodollars=spent,
        spent_usd=usd(spent),
        held_picodollars=whole_number(state.held_picodollars),
    )


def _event(event: pb.BudgetEvent) -> schemas.BudgetEvent:
    spent = whole_number(event.spent_picodollars)
    return schemas.BudgetEvent(
        sequence=event.sequence,
        budget_id=event.budget_id,
        org_id=event.org_id,
        name=event.name,
        owners=list(event.owners),
        period_start=time(event.period_start),
        threshold_percent=event.threshold_percent,
        spent_picodollars=spent,
        spent_usd=usd(spent),
        limit_picodollars=event.limit_picodollars,
        limit_usd=usd(event.limit_picodollars),
        stopped=event.stopped,
        time=time(event.event_time),
    )
