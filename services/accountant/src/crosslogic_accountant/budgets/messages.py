"""Budgets as messages: protobuf to domain and back."""

from collections.abc import Sequence
from uuid import UUID

from crosslogic.accountant.v1 import budgets_pb2 as pb
from crosslogic_accountant.budgets.domain import Budget, BudgetEvent, BudgetState, Period, Scope
from crosslogic_accountant.budgets.read_store import Spend, SpendQuery
from crosslogic_accountant.budgets.store import BudgetChange
from crosslogic_accountant.record_reader import read_id
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode

MAX_LIMIT_PICODOLLARS = 2**63 - 1
DEFAULT_THRESHOLDS = (50, 80, 100)
MAX_THRESHOLDS = 10
MAX_THRESHOLD_PERCENT = 1_000
MAX_OWNERS = 20
MAX_OWNER_CHARS = 320
MAX_NAME_CHARS = 200
MAX_MEMBERS = 100


def read_budget(message: pb.Budget, budget_id: UUID) -> Budget:
    """A budget to be made. Raises INVALID_ARGUMENT."""
    scope, period = _scope(message.scope), read_period(message.period)
    owned = scope in {Scope.ENVIRONMENT, Scope.API_KEY}
    if bool(message.scope_id) is not owned:
        raise _invalid("scope_id", "names the environment or the key of a budget of that scope, and of no other")
    members = bool(message.environment_ids or message.api_key_ids)
    if members is not (scope is Scope.DEPARTMENT):
        raise _invalid("environment_ids", "and `api_key_ids` name what a department has, and are of no other scope")
    return Budget(
        id=budget_id,
        org_id=read_uuid(message.org_id, "org_id"),
        scope=scope,
        scope_id=read_uuid(message.scope_id, "scope_id") if owned else None,
        environment_ids=_members(message.environment_ids, "environment_ids"),
        api_key_ids=_members(message.api_key_ids, "api_key_ids"),
        name=_name(message.name),
        period=period,
        limit_picodollars=_limit(message.limit_picodollars),
        hard=message.hard,
        thresholds_percent=_thresholds(message.thresholds_percent) or DEFAULT_THRESHOLDS,
        owners=_owners(message.owners),
    )


def read_change(message: pb.UpdateBudgetRequest) -> BudgetChange:
    """What is to be changed. Raises INVALID_ARGUMENT."""
    return BudgetChange(
        name=_name(message.name) if message.HasField("name") else None,
        limit_picodollars=_limit(message.limit_picodollars) if message.HasField("limit_picodollars") else None,
        hard=message.hard if message.HasField("hard") else None,
        thresholds_percent=_thresholds(message.thresholds_percent) or None,
        owners=_owners(message.owners) or None,
    )


def read_spend_query(message: pb.SpendQuery) -> SpendQuery:
    """Raises INVALID_ARGUMENT."""
    scope = _scope(message.scope)
    if scope is Scope.DEPARTMENT:
        raise _invalid("scope", "must be org, environment or key")
    return SpendQuery(scope, read_uuid(message.id, "id"), read_period(message.period))


def read_uuid(text: str, name: str) -> UUID:
    """Raises INVALID_ARGUMENT."""
    return UUID(bytes=read_id(text, name))


def read_period(value: int) -> Period:
    """Raises INVALID_ARGUMENT."""
    try:
        return Period(value)
    except ValueError:
        raise _invalid("period", "is not stated") from None


def budget_state(state: BudgetState) -> pb.BudgetState:
    """A budget and where it stands."""
    budget = state.budget
    return pb.BudgetState(
        budget=pb.Budget(
            id=str(budget.id),
            org_id=str(budget.org_id),
            scope=budget.scope.value,  # type: ignore[arg-type]  # the same numbers
            scope_id="" if budget.scope_id is None else str(budget.scope_id),
            environment_ids=[str(each) for each in budget.environment_ids],
            api_key_ids=[str(each) for each in budget.api_key_ids],
            name=budget.name,
            period=budget.period.value,  # type: ignore[arg-type]  # the same numbers
            limit_picodollars=budget.limit_picodollars,
            hard=budget.hard,
            thresholds_percent=budget.thresholds_percent,
            owners=budget.owners,
            create_time=timestamp(state.create_time),
        ),
        period_start=timestamp(state.period_start),
        spent_picodollars=str(state.spent_picodollars),
        held_picodollars=str(state.held_picodollars),
        deleted=state.deleted,
    )


def budget_event(event: BudgetEvent) -> pb.BudgetEvent:
    """A threshold that was reached."""
    return pb.BudgetEvent(
        sequence=event.sequence,
        budget_id=str(event.budget_id),
        org_id=str(event.org_id),
        name=event.name,
        owners=event.owners,
        period_start=timestamp(event.period_start),
        threshold_percent=event.threshold_percent,
        spent_picodollars=str(event.spent_picodollars),
        limit_picodollars=event.limit_picodollars,
        stopped=event.stopped,
        event_time=timestamp(event.event_time),
    )


def spend(spent: Spend) -> pb.Spend:
    """What was spent."""
    return pb.Spend(
        period_start=timestamp(spent.period_start),
        spent_picodollars=str(spent.spent_picodollars),
        tokens=max(spent.tokens, 0),
    )


def _scope(value: int) -> Scope:
    try:
        return Scope(value)
    except ValueError:
        raise _invalid("scope", "is not stated") from None


def _members(values: Sequence[str], name: str) -> tuple[UUID, ...]:
    if len(values) > MAX_MEMBERS:
        raise _invalid(name, f"has more than {MAX_MEMBERS} entries")
    return tuple(sorted({read_uuid(value, name) for value in values}))


def _name(text: str) -> str:
    if not 1 <= len(text) <= MAX_NAME_CHARS or "\0" in text:
        raise _invalid("name", f"must be 1 to {MAX_NAME_CHARS} characters")
    return text


def _limit(value: int) -> int:
    if not 1 <= value <= MAX_LIMIT_PICODOLLARS:
        raise _invalid("limit_picodollars", "must be 1 to 2^63 - 1")
    return value


def _thresholds(values: Sequence[int]) -> tuple[int, ...]:
    rising = sorted({int(value) for value in values})
    if list(values) != rising or len(values) > MAX_THRESHOLDS:
        raise _invalid("thresholds_percent", f"must rise and be at most {MAX_THRESHOLDS}")
    if values and not 1 <= rising[0] <= rising[-1] <= MAX_THRESHOLD_PERCENT:
        raise _invalid("thresholds_percent", f"must be 1 to {MAX_THRESHOLD_PERCENT}")
    return tuple(rising)


def _owners(values: Sequence[str]) -> tuple[str, ...]:
    if len(values) > MAX_OWNERS or any(not 1 <= len(each) <= MAX_OWNER_CHARS or "\0" in each for each in values):
        raise _invalid("owners", f"must be at most {MAX_OWNERS}, each of 1 to {MAX_OWNER_CHARS} characters")
    return tuple(values)


def _invalid(name: str, what: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` {what}.", param=name)
